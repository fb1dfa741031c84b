# SPDX-License-Identifier: GPL-3.0-or-later
"""What the numbers in a BCD store are called: objects, their types, elements and their values.

An element's id is class, format and subtype. What an id of the application class means depends
on the application: 0x22000002 is ``systemroot`` of a Windows loader, ``filepath`` of a resume
loader. Names are the ones that a person types at bcdedit; ``custom:XXXXXXXX`` stands for any id.

References: ``bcdedit /? types`` and its other help pages; Microsoft, "BCDEdit /set" and the BCD
WMI provider's enumerations; Geoff Chappell, "BCD Elements" and "BCD Objects"; boot-facts 3.2-3.4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

from mediamaker.errors import UsageError


class Format(IntEnum):
    """How an element's value is written: the second hexadecimal digit of its id."""

    DEVICE = 1
    STRING = 2
    OBJECT = 3
    OBJECT_LIST = 4
    INTEGER = 5
    BOOLEAN = 6
    INTEGER_LIST = 7


FIRMWARE_BOOT_MANAGER: Final = 0x10100001
BOOT_MANAGER: Final = 0x10100002
OS_LOADER: Final = 0x10200003
RESUME_LOADER: Final = 0x10200004
MEMORY_TESTER: Final = 0x10200005
LEGACY_LOADER: Final = 0x10300006
SETUP_LOADER: Final = 0x10300007
BOOT_SECTOR: Final = 0x10400008
STARTUP: Final = 0x10400009
FIRMWARE_APPLICATION: Final = 0x101FFFFF
SETTINGS: Final = 0x20100000
OS_LOADER_SETTINGS: Final = 0x20200003
RESUME_LOADER_SETTINGS: Final = 0x20200004
DEVICE_OPTIONS: Final = 0x30000000

OBJECT_TYPES: Mapping[int, tuple[str, str]] = {
    FIRMWARE_BOOT_MANAGER: ("fwbootmgr", "Firmware Boot Manager"),
    BOOT_MANAGER: ("bootmgr", "Windows Boot Manager"),
    OS_LOADER: ("osloader", "Windows Boot Loader"),
    RESUME_LOADER: ("resume", "Resume from Hibernate"),
    MEMORY_TESTER: ("memdiag", "Windows Memory Tester"),
    LEGACY_LOADER: ("ntldr", "Windows Legacy OS Loader"),
    SETUP_LOADER: ("setupldr", "Windows Setup Loader"),
    BOOT_SECTOR: ("bootsector", "Real-mode Boot Sector"),
    STARTUP: ("startup", "Real-mode Application"),
    FIRMWARE_APPLICATION: ("fwapp", "Firmware Application"),
    SETTINGS: ("settings", "Settings"),
    OS_LOADER_SETTINGS: ("osloadersettings", "Loader Settings"),
    RESUME_LOADER_SETTINGS: ("resumesettings", "Resume Loader Settings"),
    DEVICE_OPTIONS: ("device", "Device options"),
}
"""Type, the word for it on the command line, the heading for it."""

WELL_KNOWN: Mapping[str, tuple[UUID, str, int]] = {
    name: (UUID(guid), heading, type_code)
    for name, guid, heading, type_code in (
        ("bootmgr", "9dea862c-5cdd-4e70-acc1-f32b344d4795", "Windows Boot Manager", BOOT_MANAGER),
        (
            "fwbootmgr", "a5a30fa2-3d06-4e9f-b5f4-a01df9d1fcba",
            "Firmware Boot Manager", FIRMWARE_BOOT_MANAGER,
        ),
        ("memdiag", "b2721d73-1db4-4c62-bf78-c548a880142d", "Windows Memory Tester", MEMORY_TESTER),
        (
            "ntldr", "466f5a88-0af2-4f76-9038-095b170dc21c",
            "Windows Legacy OS Loader", LEGACY_LOADER,
        ),
        (
            "ramdiskoptions", "ae5534e0-a924-466c-b836-758539a3ee3a",
            "Setup Ramdisk Options", DEVICE_OPTIONS,
        ),
        ("globalsettings", "7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e", "Global Settings", SETTINGS),
        (
            "bootloadersettings", "6efb52bf-1766-41db-a6b3-0ee5eff72bd7",
            "Boot Loader Settings", OS_LOADER_SETTINGS,
        ),
        (
            "resumeloadersettings", "1afa9c49-16ab-4a5c-901b-212802da9460",
            "Resume Loader Settings", RESUME_LOADER_SETTINGS,
        ),
        ("emssettings", "0ce4991b-e6b3-4b16-b23c-5e0d9250e5d9", "EMS Settings", SETTINGS),
        ("dbgsettings", "4636856e-540f-4170-a130-a84776f4c654", "Debugger Settings", SETTINGS),
        ("badmemory", "5189b25c-5558-4bf2-bca4-289b11bd29e2", "RAM Defects", SETTINGS),
        (
            "hypervisorsettings", "7ff607e0-4395-11db-b0de-0800200c9a66",
            "Hypervisor Settings", OS_LOADER_SETTINGS,
        ),
    )
}  # fmt: skip
"""Alias, GUID, heading, the type that such an object has."""

_ALIASES = {guid: name for name, (guid, _, _) in WELL_KNOWN.items()}
_HEADINGS = {guid: heading for guid, heading, _ in WELL_KNOWN.values()}

_LIBRARY = """
11000001 device              12000002 path                 12000004 description
12000005 locale              14000006 inherit              15000007 truncatememory
14000008 recoverysequence    16000009 recoveryenabled      1700000a badmemorylist
1600000b badmemoryaccess     1500000c firstmegabytepolicy  1500000d relocatephysical
1500000e avoidlowmemory      1600000f traditionalkseg      16000010 bootdebug
15000011 debugtype           15000012 debugaddress         15000013 debugport
15000014 baudrate            15000015 channel              12000016 targetname
16000017 noumex              15000018 debugstart           12000019 busparams
1500001a hostip              1500001b port                 1600001c dhcp
1200001d key                 1600001e vm                   1200001f hostipv6
16000020 bootems             15000022 emsport              15000023 emsbaudrate
12000030 loadoptions         16000031 attemptnonbcdstart   16000040 advancedoptions
16000041 optionsedit         15000042 keyringaddress       11000043 bootstatdevice
12000044 bootstatfilepath    16000045 preservebootstat     16000046 graphicsmodedisabled
15000047 configaccesspolicy  16000048 nointegritychecks    16000049 testsigning
1200004a fontpath            1500004b integrityservices    1500004c volumebandid
16000050 extendedinput       15000051 initialconsoleinput  15000052 graphicsresolution
16000053 restartonfailure    16000054 highestmode          16000060 isolatedcontext
15000065 displaymessage      15000066 displaymessageoverride
16000067 nobootuxlogo        16000068 nobootuxtext         16000069 nobootuxprogress
1600006a nobootuxfade        1600006b bootuxreservepooldebug
1600006c bootuxdisabled      1500006d bootuxfadeframes     1600006e bootuxdumpstats
1600006f bootuxshowstats     16000071 multibootsystem      16000072 nokeyboard
15000073 aliaswindowskey     16000074 bootshutdowndisabled 15000075 performancefrequency
15000076 securebootrawpolicy 17000077 allowedinmemorysettings
16000078 bootuxpreallocprogress                            15000079 bootuxtransitiontime
1600007a mobilegraphics      1600007b forcefipscrypto      1500007d booterrorux
1600007e flightsigning       1500007f measuredbootlogformat
15000080 displayrotation     15000081 logcontrol           16000082 nofirmwaresync
11000083 recoveryosdevice    11000084 windowssyspart       16000085 enableuwfbootfilter
15000086 enabletxtmle        16000087 numlock              12000088 additionalcipolicy
15000088 linearaddress57
"""

_BOOT_MANAGER = """
24000001 displayorder        24000002 bootsequence         23000003 default
25000004 timeout             26000005 resume               23000006 resumeobject
24000007 startupsequence     24000010 toolsdisplayorder    26000020 displaybootmenu
26000021 noerrordisplay      21000022 bcddevice            22000023 bcdfilepath
26000024 hormenabled         26000025 hiberboot            22000026 passwordoverride
22000027 pinpassphraseoverride                             26000028 processcustomactionsfirst
27000030 customactions       26000031 persistbootsequence  26000032 skipstartupsequence
22000040 fverecoveryurl      22000041 fverecoverymessage   26000042 flightedbootmgr
"""

_OS_LOADER = """
21000001 osdevice            22000002 systemroot           23000003 resumeobject
26000004 stampdisks          26000010 detecthal            22000011 kernel
22000012 hal                 22000013 dbgtransport         25000020 nx
25000021 pae                 26000022 winpe                26000024 nocrashautoreboot
26000025 lastknowngood       26000026 oslnointegritychecks 26000027 osltestsigning
26000030 nolowmem            25000031 removememory         25000032 increaseuserva
25000033 perfmem             26000040 vga                  26000041 quietboot
26000042 novesa              26000043 novga                25000050 clustermodeaddressing
26000051 usephysicaldestination                            25000052 restrictapiccluster
22000053 evstore             26000054 uselegacyapicmode    25000055 x2apicpolicy
26000060 onecpu              25000061 numproc              26000062 maxproc
25000063 configflags         26000064 maxgroup             26000065 groupaware
25000066 groupsize           26000070 usefirmwarepcisettings
25000071 msi                 25000072 pciexpress           25000080 safeboot
26000081 safebootalternateshell                            26000090 bootlog
26000091 sos                 260000a0 debug                260000a1 halbreakpoint
260000a2 useplatformclock    260000a3 forcelegacyplatform  260000a4 useplatformtick
260000a5 disabledynamictick  250000a6 tscsyncpolicy        260000b0 ems
250000c0 forcefailure        250000c1 driverloadfailurepolicy
250000c2 bootmenupolicy      260000c3 onetimeadvancedoptions
260000c4 onetimeoptionsedit  250000e0 bootstatuspolicy     260000e1 disableelamdrivers
250000f0 hypervisorlaunchtype                              220000f1 hypervisorpath
260000f2 hypervisordebug     250000f3 hypervisordebugtype  250000f4 hypervisordebugport
250000f5 hypervisorbaudrate  250000f6 hypervisorchannel    250000f7 bootux
260000f8 hypervisordisableslat                             220000f9 hypervisorbusparams
250000fa hypervisornumproc   250000fb hypervisorrootprocpernode
260000fc hypervisoruselargevtlb                            250000fd hypervisorhostip
250000fe hypervisorhostport  250000ff hypervisordebugpages 25000100 tpmbootentropy
22000110 hypervisorusekey    22000112 hypervisorproductskutype
25000113 hypervisorrootproc  26000114 hypervisordhcp       25000115 hypervisoriommupolicy
26000116 hypervisorusevapic  22000117 hypervisorloadoptions
25000118 hypervisormsrfilterpolicy                         25000119 hypervisormmionxpolicy
2500011a hypervisorschedulertype                           2200011b hypervisorrootprocnumanodes
2500011c hypervisorperfmon   2500011d hypervisorrootprocpercore
2200011e hypervisorrootprocnumanodelps                     25000120 xsavepolicy
25000121 xsaveaddfeature0    25000122 xsaveaddfeature1     25000123 xsaveaddfeature2
25000124 xsaveaddfeature3    25000125 xsaveaddfeature4     25000126 xsaveaddfeature5
25000127 xsaveaddfeature6    25000128 xsaveaddfeature7     25000129 xsaveremovefeature
2500012a xsaveprocessorsmask 2500012b xsavedisable         2500012c kerneldebugtype
2200012d kernelbusparams     2500012e kerneldebugaddress   2500012f kerneldebugport
25000130 claimedtpmcounter   25000131 kernelchannel        22000132 kerneltargetname
25000133 kernelhostip        25000134 kernelport           26000135 kerneldhcp
22000136 kernelkey           22000137 imchivename          21000138 imcdevice
25000139 kernelbaudrate      22000140 mfgmode              26000141 event
25000142 vsmlaunchtype       25000144 hypervisorenforcedcodeintegrity
26000145 dtrace              21000150 systemdatadevice     21000151 osarcdevice
21000153 osdatadevice        21000154 bspdevice            21000155 bspfilepath
22000156 kernelhostipv6      22000161 hypervisorhostipv6
"""

_RESUME = """
21000001 filedevice          22000002 filepath             26000003 customsettings
26000004 pae                 21000005 associatedosdevice   26000006 debugoptionenabled
25000007 bootux              25000008 bootmenupolicy       26000024 hormenabled
"""

_MEMORY_TESTER = """
25000001 passcount           25000002 testmix              25000003 failurecount
26000003 cacheenable         25000004 testtofail           26000004 failuresenabled
25000005 stridefailcount     25000006 invcfailcount        25000007 matsfailcount
25000008 randfailcount       25000009 chckrfailcount
"""

_LEGACY = "22000001 bpbstring"
_STARTUP = "26000001 pxesoftreboot  22000002 applicationname"

_DEVICE = """
35000001 ramdiskimageoffset  35000002 ramdisktftpclientport
31000003 ramdisksdidevice    32000004 ramdisksdipath       35000005 ramdiskimagelength
36000006 exportascd          35000007 ramdisktftpblocksize 35000008 ramdisktftpwindowsize
36000009 ramdiskmcenabled    3600000a ramdiskmctftpfallback
3600000b ramdisktftpvarwindow                              3600000c vhdramdiskboot
3500000d vhdramdisklength
"""

_TEMPLATE = """
45000001 devicetype          42000002 applicationrelativepath
42000003 ramdiskdevicerelativepath                         46000004 omitosloaderelements
47000005 elementstomigrate   46000010 recoveryos
"""


def _table(*texts: str) -> dict[int, str]:
    words = " ".join(texts).split()
    return {int(number, 16): name for number, name in zip(words[::2], words[1::2], strict=True)}


_EVERYWHERE = _table(_LIBRARY, _TEMPLATE)
_DEVICE_TABLE = _table(_DEVICE)
_APPLICATIONS: Mapping[int, Mapping[int, str]] = {
    1: _table(_BOOT_MANAGER),
    2: _table(_BOOT_MANAGER),
    3: _table(_OS_LOADER),
    4: _table(_RESUME),
    5: _table(_MEMORY_TESTER),
    6: _table(_LEGACY),
    7: _table(_LEGACY),
    8: _table(_LEGACY),
    9: _table(_STARTUP),
}
_ANY_APPLICATION = {**_table(_BOOT_MANAGER), **_table(_OS_LOADER)}

_ON_OFF = ("Off", "Auto")
_DEFAULT_DISABLE_ENABLE = ("Default", "Disable", "Enable")
_MESSAGES = (
    "Default", "Resume", "HyperV", "Recovery", "StartupRepair", "SystemImageRecovery",
    "CommandPrompt", "SystemRestore", "PushButtonReset",
)  # fmt: skip
_VALUES: Mapping[str, tuple[str, ...]] = {
    "nx": ("OptIn", "OptOut", "AlwaysOff", "AlwaysOn"),
    "pae": ("Default", "ForceEnable", "ForceDisable"),
    "bootmenupolicy": ("Legacy", "Standard"),
    "bootux": ("Disabled", "Basic", "Standard"),
    "debugtype": ("Serial", "1394", "USB", "NET", "Local"),
    "kerneldebugtype": ("Serial", "1394", "USB", "NET", "Local"),
    "hypervisordebugtype": ("Serial", "1394", "None", "NET"),
    "debugstart": ("Active", "AutoEnable", "Disable"),
    "displaymessage": _MESSAGES,
    "displaymessageoverride": _MESSAGES,
    "bootstatuspolicy": (
        "DisplayAllFailures", "IgnoreAllFailures", "IgnoreShutdownFailures",
        "IgnoreBootFailures", "IgnoreCheckpointFailures", "DisplayShutdownFailures",
        "DisplayBootFailures", "DisplayCheckpointFailures",
    ),
    "configaccesspolicy": ("Default", "DisallowMmConfig"),
    "driverloadfailurepolicy": ("Fatal", "UseErrorControl"),
    "firstmegabytepolicy": ("UseNone", "UseAll", "UsePrivate"),
    "graphicsresolution": ("1024x768", "800x600", "1024x600"),
    "hypervisorlaunchtype": _ON_OFF,
    "vsmlaunchtype": _ON_OFF,
    "hypervisoriommupolicy": ("Default", "Enable", "Disable"),
    "hypervisormsrfilterpolicy": ("Disable", "Enable"),
    "hypervisormmionxpolicy": ("Disable", "Enable"),
    "linearaddress57": ("Default", "OptOut", "OptIn"),
    "measuredbootlogformat": ("Default", "Sha1"),
    "msi": ("Default", "ForceDisable"),
    "pciexpress": ("Default", "ForceDisable"),
    "safeboot": ("Minimal", "Network", "DsRepair"),
    "tpmbootentropy": ("Default", "ForceDisable", "ForceEnable"),
    "tscsyncpolicy": ("Default", "Legacy", "Enhanced"),
    "x2apicpolicy": _DEFAULT_DISABLE_ENABLE,
}  # fmt: skip

_CUSTOM_RE = re.compile(r"(?:custom:)?(?:0x)?([0-9a-fA-F]{8})")


def well_known(alias: str) -> UUID:
    """The GUID of ``bootmgr``, ``globalsettings`` and the like; a KeyError for other words."""
    return WELL_KNOWN[alias][0]


def object_alias(guid: UUID) -> str | None:
    """``bootmgr`` for its GUID; None for one that no Windows version gave a name."""
    return _ALIASES.get(guid)


def object_heading(guid: UUID, type_code: int | None) -> str:
    """What bcdedit calls such an object."""
    if guid in _HEADINGS:
        return _HEADINGS[guid]
    if type_code is None:
        return "Object without a type"
    names = OBJECT_TYPES.get(type_code)
    if names is None:
        return f"Unknown object ({type_code:08x})"
    return f"{names[1]} ({type_code:x})" if type_code == FIRMWARE_APPLICATION else names[1]


def object_type(word: str) -> int:
    """The type that ``osloader``, ``bootsector`` or eight hexadecimal digits stand for.

    Raises:
        UsageError: neither.
    """
    for type_code, (name, _) in OBJECT_TYPES.items():
        if name == word.lower():
            return type_code
    if re.fullmatch(r"(?:0x)?[0-9a-fA-F]{8}", word):
        return int(word, 16)
    known = ", ".join(name for name, _ in OBJECT_TYPES.values())
    raise UsageError(f"{word!r} is no type of object", hint=f"known are: {known}")


def element_format(element_id: int) -> Format | None:
    """How the value of such an element is written; None when it can't be told."""
    number = element_id >> 24 & 0xF
    return Format(number) if number in Format.__members__.values() else None


def element_name(element_id: int, type_code: int | None) -> str:
    """What bcdedit calls the element in an object of this type; ``custom:XXXXXXXX`` otherwise."""
    return _names(type_code).get(element_id) or f"custom:{element_id:08x}"


def has_element_name(element_id: int, type_code: int | None) -> bool:
    """Whether the element has a name in an object of this type."""
    return element_id in _names(type_code)


def element_id(name: str, type_code: int | None) -> int:
    """The id of an element by its name, ``custom:XXXXXXXX`` or eight hexadecimal digits.

    Raises:
        UsageError: objects of this type have no such element; the hint has names like it.
    """
    custom = _CUSTOM_RE.fullmatch(name)
    if custom is not None:
        return int(custom[1], 16)
    names = _names(type_code)
    wanted = name.lower()
    for number, known in names.items():
        if known == wanted:
            return number
    words = OBJECT_TYPES.get(type_code or 0, ("", ""))[0] or "any"
    close = difflib.get_close_matches(wanted, names.values(), 3)
    hint = (f"did you mean {', '.join(close)}? " if close else "") + "custom:XXXXXXXX gives any id"
    raise UsageError(f"objects of type {words} have no element {name!r}", hint=hint)


def value_names(element_id_: int, type_code: int | None) -> tuple[str, ...]:
    """Names of the values 0, 1, ... of an integer element; empty for one that just counts."""
    if element_format(element_id_) is not Format.INTEGER:
        return ()
    return _VALUES.get(element_name(element_id_, type_code), ())


@lru_cache(maxsize=64)
def _names(type_code: int | None) -> Mapping[int, str]:
    """Every element that an object of this type may have."""
    if type_code is None or type_code in {SETTINGS, FIRMWARE_APPLICATION}:
        return {**_EVERYWHERE, **_DEVICE_TABLE, **_ANY_APPLICATION}
    if type_code >> 28 == 3:
        return {**_EVERYWHERE, **_DEVICE_TABLE}
    table = _APPLICATIONS.get(type_code & 0xFFFFF, _ANY_APPLICATION)
    return {**_EVERYWHERE, **table}
