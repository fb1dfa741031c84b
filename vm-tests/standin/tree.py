# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of a Windows Setup ISO (boot-facts.md 2.2), with contents of our own.

Not here, because other programs write them: the two WIM files, the boot programs that say the
token, and efisys.bin.
"""

from __future__ import annotations

from collections.abc import Iterator

from standin import content

BOOT_NAMES = {"x64": "bootx64.efi", "x86": "bootia32.efi", "arm64": "bootaa64.efi"}
_PACKAGE_ARCH = {"x64": "amd64", "x86": "x86", "arm64": "arm64"}
_UEFI_APPLICATION = 10


def _words(names: str) -> tuple[str, ...]:
    return tuple(names.split())


_FONTS = _words(
    "chs_boot cht_boot jpn_boot kor_boot malgun_boot malgunn_boot meiryo_boot meiryon_boot "
    "msjh_boot msjhn_boot msyh_boot msyhn_boot segmono_boot segoe_slboot segoen_slboot wgl4_boot"
)

_SETUP_PROGRAMS = _words(
    "actionqueue.dll appraiser.dll arunimg.exe arunres.dll autorun.dll bcd.dll cmi2migxml.dll "
    "cmisetup.dll compatctrl.dll compatprovider.dll compatresources.dll cryptosetup.dll "
    "csiagent.dll diager.dll diagnostic.dll diagtrack.dll diagtrackrunner.exe dism.exe "
    "dismapi.dll dismcore.dll dismcoreps.dll dismhost.exe dismprov.dll du.dll folderprovider.dll "
    "hwcompat.dll hwexclude.dll imagelib.dll imagingprovider.dll input.dll logprovider.dll "
    "mediasetupuimgr.dll migcore.dll mighost.exe migisol.dll migres.dll migstore.dll "
    "migsys.dll migtestplugin.dll mxeagent.dll nlsbres.dll ntdsupg.dll offline.dll pnpibs.dll "
    "rdmupg.dll reagent.dll rollback.exe segoeui.dll setup.exe setupcompat.dll setupcore.dll "
    "setupdiag.dll setuphost.exe setupmgr.dll setupplatform.dll setupplatform.exe setupprep.exe "
    "smiengine.dll spprgrss.dll spwizeng.dll spwizimg.dll spwizres.dll sqmapi.dll unattend.dll "
    "unbcl.dll upgradeagent.dll vhdprovider.dll w32uiimg.dll w32uires.dll wdsclient.dll "
    "wdsclientapi.dll wdscore.dll wdscsl.dll wdsimage.dll wdstptc.dll wdsutil.dll wimgapi.dll "
    "wimprovider.dll winsetup.dll xmllite.dll"
)

_SETUP_TEXTS = _words(
    "alert.gif appcompat.xsl compatproviderconfig.xml cversion.ini diagtrackrunner.xml "
    "gatherosstate.xml idwbinfo.txt inf.xml lang.ini offline.xml product.ini "
    "reagent.xml rollbacksupport.xml sfcn.dat sflistw7.dat sflistwb.woa.dat setuperror.xml "
    "sysresetdefaults.ini upgrade_comp.xml upgrade_data.xml utcapp.json uupproduct.ini "
    "windlp.state.xml"
)

_COMPONENTS = _words(
    "bluetooth-userservice capabilityaccessmanager certificateservices-ca-adm com-base "
    "core-fonts-registry deviceguard-gpext directwrite-fontcache dns-client dot3svc eventcollector "
    "fax-service feclient filerepository gameinput groupmembership hyper-v-vstack-vmms "
    "iis-managementconsole internet-explorer-optional location-service mediaplayer-setup "
    "msmq-messagingcoreservice ndis-implatform netfx3-ondemand offlinefiles-core peerdist "
    "printing-spooler-core rasserver remoteassistance-exe search-profilenotify shmig "
    "storagemigration tabletpc-journal terminalservices-appserver-licensing unimodem-config "
    "usermodensi wmi-core wpd-busenumservice xpsviewer"
)

_UNICODE_NAMES = (
    # The UDF side stores the first two in 8 bits a character, the others in 16.
    "sources/$OEM$/$1/Überprüfung/Größe.txt",
    "sources/$OEM$/$1/Überprüfung/naïve café.txt",
    "sources/$OEM$/$1/Überprüfung/Łódź.txt",
    "sources/$OEM$/$1/日本語 フォルダ/セットアップの説明.txt",
    "sources/$OEM$/$1/日本語 フォルダ/Привет мир.txt",
)
"""No name outside the basic plane: genisoimage cuts it off there. Folders test those."""

_AWKWARD_NAMES = (
    # What 8.3 aliases and case flags are for: same first six letters, several dots, a leading
    # dot, legal long-name characters that no alias may hold, all case forms of a short name.
    "sources/$OEM$/$$/Setup/Scripts/SetupComplete.cmd",
    "sources/$OEM$/$$/Setup/Scripts/ErrorHandler.cmd",
    "sources/$OEM$/$1/Drivers/Net/Vendor 2.5G (rev. B)/driver v1.2.3+fix, final [signed]=ok.inf",
    "sources/$OEM$/$1/Drivers/.gitattributes",
    "sources/$OEM$/$1/Drivers/SHORT.INF",
    "sources/$OEM$/$1/Drivers/short.CAT",
    "sources/$OEM$/$1/Drivers/Short.sys",
    "sources/$OEM$/$1/Drivers/noextension",
    "sources/$OEM$/$1/Drivers/many.dots.in.one.name.tar.gz",
    "sources/$OEM$/$1/Drivers/archive.tar~1.gz",
    "sources/$OEM$/$1/a/b/c/d/e/f/g/h/i/j/k/deep.txt",
    "sources/$OEM$/$1/Drivers/"
    + "a name as long as Joliet and genisoimage allow ".ljust(99, "x")
    + ".cab",
)

_ALIAS_TRAP = "sources/$OEM$/$1/Drivers/archiv~1.gz"
"""The alias that archive.tar~1.gz would get: mcopy 4.0.32 silently loses one of the two."""


def media_files(
    arch: str, *, manifest_rounds: int = 1, has_alias_trap: bool = True
) -> Iterator[tuple[str, bytes]]:
    """Path (with ``/``) and content of each small file; ``manifest_rounds`` multiplies the many."""
    yield from _root_files(arch)
    yield from _boot_files(arch)
    yield from _setup_files(arch)
    yield from _component_files(arch, manifest_rounds)
    trap = (_ALIAS_TRAP,) if has_alias_trap else ()
    for path in _UNICODE_NAMES + _AWKWARD_NAMES + trap:
        yield path, content.text(path, 40 + 13 * len(path))
    yield "sources/$OEM$/$1/Drivers/empty.txt", b""


def empty_directories() -> tuple[str, ...]:
    """Directories that hold nothing, and must arrive all the same."""
    return ("sources/$OEM$/$1/Empty Folder",)


def _root_files(arch: str) -> Iterator[tuple[str, bytes]]:
    yield "autorun.inf", b"[AutoRun.Amd64]\r\nopen=setup.exe\r\nicon=setup.exe,0\r\n"
    yield "setup.exe", content.program("setup.exe", 95_168, arch=arch, subsystem=2)
    yield (
        "bootmgr.efi",
        content.program("bootmgr.efi", 447_416, arch=arch, subsystem=_UEFI_APPLICATION),
    )
    for name, size in (("mediacheck.dll", 36_504), ("migration.dll", 120_224)):
        yield f"support/logging/{name}", content.program(name, size, arch=arch)
    yield "support/logging/en-us/mediacheck.dll.mui", content.program("mui", 3_072, arch=arch)


def _boot_files(arch: str) -> Iterator[tuple[str, bytes]]:
    yield "boot/bcd", content.hive("boot/bcd", 16_384)
    yield "boot/boot.sdi", content.ramdisk_image()
    yield "boot/bootfix.bin", content.noise("boot/bootfix.bin", 1024)
    yield "boot/bootsect.exe", content.program("bootsect.exe", 117_048, arch=arch)
    yield "boot/memtest.exe", content.program("memtest.exe", 119_096, arch=arch, subsystem=16)
    for name in ("bootmgr.exe.mui", "bootsect.exe.mui", "memtest.exe.mui"):
        yield f"boot/en-us/{name}", content.program(name, 17_640, arch=arch)
    uefi_boot = "efi/microsoft/boot"
    yield f"{uefi_boot}/bcd", content.hive("efi/bcd", 16_384)
    for name in ("cdboot.efi", "cdboot_noprompt.efi", "memtest.efi"):
        body = content.program(name, 118_784, arch=arch, subsystem=_UEFI_APPLICATION)
        yield f"{uefi_boot}/{name}", body
    yield f"{uefi_boot}/boot.stl", content.noise("boot.stl", 10_449)
    yield f"{uefi_boot}/winsipolicy.p7b", content.noise("winsipolicy.p7b", 9_990)
    for directory in ("boot", uefi_boot):
        yield (
            f"{directory}/resources/bootres.dll",
            content.program(f"{directory}/bootres.dll", 92_472, arch=arch),
        )
        for name in _FONTS:
            yield f"{directory}/fonts/{name}.ttf", content.font(name, 36_020 + 517 * len(name))


def _setup_files(arch: str) -> Iterator[tuple[str, bytes]]:
    for index, name in enumerate(_SETUP_PROGRAMS):
        size = 12_000 + 3_331 * (index * 7 % 19)
        yield f"sources/{name}", content.program(name, size, arch=arch)
        if name.endswith(".exe") or index % 3 == 0:
            yield f"sources/en-us/{name}.mui", content.program(name + ".mui", 4_608, arch=arch)
    for name in _SETUP_TEXTS:
        yield f"sources/{name}", content.text(name, 700 + 211 * len(name))
    yield "sources/background_cli.bmp", b"BM" + content.noise("background_cli.bmp", 98_302)
    for channel in ("_default", "eval", "oem", "volume"):
        for edition in ("core", "professional", "education"):
            path = f"sources/en-us/licenses/{channel}/{edition}/license.rtf"
            yield path, b"{\\rtf1 " + content.text(path, 9_000) + b"}"


def _component_files(arch: str, rounds: int) -> Iterator[tuple[str, bytes]]:
    package_arch = _PACKAGE_ARCH[arch]
    for number in range(rounds):
        suffix = "" if number == 0 else f"-{number:02d}"
        for component in _COMPONENTS:
            name = f"microsoft-windows-{component}{suffix}"
            for path in (
                f"sources/dlmanifests/{name}-dl.man",
                f"sources/dlmanifests/{name}-dl/{component}-replacement.man",
                f"sources/replacementmanifests/{name}-repl.man",
                f"sources/replacementmanifests/{name}/{component}-ppdlic.xrm-ms",
            ):
                yield path, content.text(path, 900 + 37 * len(component) + 411 * number)
            package = f"{name}-package~31bf3856ad364e35~{package_arch}~~.cab"
            yield f"sources/sxs/{package}", b"MSCF" + content.noise(package, 9_000)
