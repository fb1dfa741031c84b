#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Every `mediamaker wim` verb on real trees of this system, judged by wimlib-imagex, 7z, ntfs-3g
# and diff. One line a verb: verdict, time of the verb alone, and who judged what.
#
#   scripts/wim_real_trees.sh [TREE [SMALL_TREE]]     default: /usr and /usr/include
#
# Thorough compression (network, archive) and edits are done on SMALL_TREE. Needs root (loop and
# FUSE mounts), and room of about three times TREE in out/. Exits with 1 if any judge objects.
set -uo pipefail
export LC_ALL=C.UTF-8

tree=$(realpath "${1:-/usr}") small=$(realpath "${2:-/usr/include}")
cd "$(dirname "$0")/.." || exit 2
work=$PWD/out/real-trees
mediamaker=$PWD/.venv/bin/mediamaker python=$PWD/.venv/bin/python
log=$work/log.txt
objections=0

clean_up() {
    if mountpoint -q "$work/mnt"; then umount "$work/mnt"; fi
    if ((objections == 0)); then rm -rf "$work"; else echo "what is in $work was kept"; fi
}

# begin VERB; timed COMMAND...; check WORDS COMMAND...; finish JUDGES
begin() {
    verb=$1 milliseconds=0 problems=()
    printf '== %s\n' "$verb" >>"$log"
}

# Runs the verb under test. Sets $code; anything but $expected is a problem.
expected=0
timed() {
    local started
    started=$(date +%s%3N)
    printf '$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1
    code=$?
    milliseconds=$((milliseconds + $(date +%s%3N) - started))
    ((code == expected)) || problems+=("exit code $code of: $*")
}

check() {
    local words=$1
    shift
    printf '# %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 || problems+=("$words")
}

finish() {
    local verdict=good
    if ((${#problems[@]})); then
        verdict=BAD objections=$((objections + ${#problems[@]}))
    fi
    printf '%-18s %-4s %7s s  %s\n' "$verb" "$verdict" \
        "$(printf '%d.%d' $((milliseconds / 1000)) $((milliseconds % 1000 / 100)))" "$1"
    if ((${#problems[@]})); then printf '    objection: %s\n' "${problems[@]}"; fi
}

mm() { "$mediamaker" wim "$@"; }

# wimlib's own words about an image, without where its bytes lie in the file; groups of hard links
# are numbered as they come.
has_acls=yes
detailed() { # WIM IMAGE
    wimlib-imagex dir "$1" "$2" --detailed | awk -F' *= *' -v has_acls="$has_acls" '
        has_acls == "no" && /^Security Descriptor / { next }
        /^(Offset in WIM|Compressed size|Reference Count|Part Number|Flags|Solid [a-z]+) / { next }
        /^Link Group ID/ && $2 !~ /^0x0+$/ {
            if (!($2 in group)) group[$2] = ++count
            print "Link Group ID = " group[$2]; next }
        { print }'
}
same_image() { # WIM IMAGE WIM IMAGE
    detailed "$1" "$2" >"$work/image.1" && detailed "$3" "$4" >"$work/image.2" &&
        test -s "$work/image.1" && diff "$work/image.1" "$work/image.2" | head -n 40 &&
        cmp "$work/image.1" "$work/image.2"
}
wimlib_objects() { ! wimlib-imagex verify "$1"; }
image_count_is() { [[ $(wimlib-imagex info "$1" | sed -n 's/^Image Count: *//p') == "$2" ]]; }
boot_index_is() { [[ $(wimlib-imagex info "$1" | sed -n 's/^Boot Index: *//p') == "$2" ]]; }
field_is() { # WIM IMAGE FIELD TEXT
    [[ $(wimlib-imagex info "$1" "$2" | sed -n "s/^$3: *//p" | head -n 1) == "$4" ]]
}
has_path() { wimlib-imagex dir "$1" "$2" --path="$3"; }
has_no_path() { ! wimlib-imagex dir "$1" "$2" --path="$3"; }
has_content() { cmp <(wimlib-imagex extract "$1" "$2" "$3" --to-stdout) "$4"; }
paths_on_disk() { (cd "$1" && find . -mindepth 1 -xdev | sed 's|^\.||' | sort); }
paths_in_wim() { wimlib-imagex dir "$1" "$2" | grep -v '^/$' | sort; }
no_hash=$(printf '%040d' 0)
path_and_hash_wimlib() {
    wimlib-imagex dir "$1" "$2" --detailed | awk -F'"' -v none="$no_hash" '
        /^Full Path/ { path = $2; hash = none }
        /stream:$/ { is_content = /Unnamed/ }
        /^Hash/ && is_content { hash = substr($0, match($0, /0x/) + 2) }
        /^$/ { print path, hash }' | sort
}
path_and_hash_ours() {
    mm ls -r "$1:$2" --json | "$python" -c "import json, sys
for entry in map(json.loads, sys.stdin):
    print(entry['path'], entry['sha1'] or '$no_hash')" | sort
}
flip() { # FILE OFFSET
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf '%b' "\\x$(printf %02x $((byte ^ 255)))" |
        dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

umask 022
rm -rf "$work"
mkdir -p "$work/mnt"
: >"$log"
trap clean_up EXIT
read -r file_count raw_mib < <(echo "$(find "$tree" -xdev -type f | wc -l) $(du -smx "$tree" | cut -f1)")
echo "tree $tree: $file_count files, $raw_mib MiB; small tree $small:" \
    "$(find "$small" -xdev -type f | wc -l) files"

a=$work/a.wim
begin capture
timed mm capture "$tree" "$a" --name real --description "a real tree" --flags Test --everything
check "wimlib-imagex verify" wimlib-imagex verify "$a"
check "7z t" 7z t "$a"
check "name" field_is "$a" 1 Name real
check "description" field_is "$a" 1 Description "a real tree"
check "paths are those of find" cmp <(paths_in_wim "$a" 1) <(paths_on_disk "$tree")
finish "wimlib-imagex verify, info, dir = find; 7z t"

begin append
timed mm append "$small" "$a" --name small --boot
check "wimlib-imagex verify" wimlib-imagex verify "$a"
check "two images" image_count_is "$a" 2
check "boot index" boot_index_is "$a" 2
check "paths are those of find" cmp <(paths_in_wim "$a" 2) <(paths_on_disk "$small")
finish "wimlib-imagex verify, info, dir = find"

begin info
timed mm info "$a"
wimlib-imagex info "$a" --extract-xml="$work/a.xml" >>"$log"
check "XML" cmp <(mm info "$a" --xml) <(iconv -f UTF-16 -t UTF-8 "$work/a.xml"; echo)
check "JSON" test "$(mm info "$a" --json | "$python" -c "import json
print([image['name'] for image in json.loads(input())['images']])")" = "['real', 'small']"
finish "XML = wimlib-imagex info --extract-xml"

begin ls
timed mm ls -r "$a:1"
check "paths and SHA-1" cmp <(path_and_hash_ours "$a" 1) <(path_and_hash_wimlib "$a" 1)
finish "every path and SHA-1 = wimlib-imagex dir --detailed"

begin cat
mapfile -t some < <(cd "$tree" && find . -xdev -type f -size +1k | sort |
    shuf -n 12 --random-source=<(yes) | sed 's|^\.||')
for path in "${some[@]}"; do
    timed mm cat "$a:1" "$path"
    check "content of $path" cmp <(mm cat "$a:1" "$path") "$tree$path"
    check "wimlib on $path" has_content "$a" 1 "$path" "$tree$path"
done
finish "${#some[@]} files = source = wimlib-imagex extract --to-stdout"

begin extract
mapfile -t tops < <(cd "$small" && find . -mindepth 1 -maxdepth 1 | sed 's|^\.||' | sort)
timed mm extract "$a:2" "${tops[@]}" --to "$work/ours"
mkdir "$work/theirs"
(cd "$work/theirs" && wimlib-imagex extract "$a" 2 "${tops[@]}") >>"$log" 2>&1
check "as wimlib" diff -r --no-dereference "$work/ours" "$work/theirs"
check "as the source" diff -r --no-dereference "$work/ours" "$small"
rm -rf "$work/ours" "$work/theirs"
finish "diff -r with wimlib-imagex extract, and with the source"

begin verify
timed mm verify "$a"
whole_milliseconds=$milliseconds
# One byte in the middle of a file of image 2 alone.
victim=$(cd "$small" && find . -xdev -type f -size +20k | sort | sed -n '7s|^\.||p')
offset=$(wimlib-imagex dir "$a" 2 --detailed --path="$victim" | sed -n 's/^Offset in WIM *= \([0-9]*\).*/\1/p')
flip "$a" $((offset + 3000))
check "wimlib sees it too" wimlib_objects "$a"
expected=5
timed mm verify "$a"
expected=0
check "names file and image" grep -qF "damaged: image 2: $victim" "$log"
flip "$a" $((offset + 3000))
check "whole again" mm verify "$a"
milliseconds=$whole_milliseconds
finish "whole; one byte flipped: names image 2 and $victim, exit code 5"

begin split
part_size=$(($(stat -c %s "$a") / 3 + 1000000))
timed mm split "$a" "$work/part.swm" --size "$part_size"
check "wimlib-imagex verify --ref" wimlib-imagex verify "$work/part.swm" --ref="$work/part*.swm"
check "several parts" test -e "$work/part3.swm"
check "no part too large" test "$(stat -c %s "$work"/part*.swm | sort -n | tail -n 1)" -le "$part_size"
finish "wimlib-imagex verify --ref of $(find "$work" -name 'part*.swm' | wc -l) parts"

begin join
timed mm join "$work/part.swm" "$work/joined.wim"
check "wimlib-imagex verify" wimlib-imagex verify "$work/joined.wim"
for image in 1 2; do check "image $image" same_image "$a" "$image" "$work/joined.wim" "$image"; done
check "no boot index, as no part has one" boot_index_is "$work/joined.wim" 0
rm -f "$work"/part*.swm "$work/joined.wim"
finish "wimlib-imagex verify; images equal (dir --detailed)"

begin "apply to a folder"
timed mm apply "$a:1" "$work/applied"
check "diff with the source" diff -r --no-dereference "$tree" "$work/applied"
rm -rf "$work/applied"
finish "diff -r --no-dereference with the source"

begin "optimize fat32"
timed mm optimize "$a" "$work/fat32.wim" --images 2,1 --for fat32
check "wimlib-imagex verify" wimlib-imagex verify "$work/fat32.wim"
check "image 1" same_image "$a" 2 "$work/fat32.wim" 1
check "image 2" same_image "$a" 1 "$work/fat32.wim" 2
check "boot index" boot_index_is "$work/fat32.wim" 1
rm -f "$work/fat32.wim"
finish "wimlib-imagex verify; images equal, boot index kept"

begin "optimize --fit"
plain=$work/plain.wim fit=$work/fit.wim
wimlib-imagex export "$a" all "$plain" --compress=none >>"$log" 2>&1
room=$(($(stat -c %s "$plain") * 8 / 10))
timed mm optimize "$plain" "$fit" --fit "$room"
check "wimlib-imagex verify" wimlib-imagex verify "$fit"
check "7z t" 7z t "$fit"
for image in 1 2; do check "image $image" same_image "$a" "$image" "$fit" "$image"; done
check "size" test "$(stat -c %s "$fit")" -le "$room"
check "no more than needed" test "$(stat -c %s "$fit")" -ge $((room * 9 / 10))
rm -f "$plain" "$fit"
finish "not compressed, to 80 %: wimlib-imagex verify; 7z t; images equal; fits, closely"

for purpose in network archive; do
    begin "optimize $purpose"
    timed mm optimize "$a" "$work/$purpose.wim" --images small --for "$purpose"
    check "wimlib-imagex verify" wimlib-imagex verify "$work/$purpose.wim"
    check "image" same_image "$a" 2 "$work/$purpose.wim" 1
    check "7z t" 7z t "$work/$purpose.wim"
    finish "small tree: wimlib-imagex verify; image equal; 7z t"
done

begin export
b=$work/b.wim
timed mm export "$a:2" "$b" --name exported
timed mm export "$work/archive.wim:1" "$b" --append --name again
check "wimlib-imagex verify" wimlib-imagex verify "$b"
check "images" image_count_is "$b" 2
for image in 1 2; do check "image $image" same_image "$a" 2 "$b" "$image"; done
check "name" field_is "$b" 2 Name again
finish "small tree, then appended from LZMS: wimlib-imagex verify; images equal"

begin update
echo "new text" >"$work/new.txt"
gone=$(cd "$small" && find . -mindepth 1 -maxdepth 1 -type d | sort | sed -n '1s|^\.||p')
printf 'add "%s" /added/new.txt\ndelete --recursive %s\nrename %s /renamed\n' \
    "$work/new.txt" "$gone" "$victim" >"$work/commands"
timed mm update "$b:1" --commands "$work/commands"
check "wimlib-imagex verify" wimlib-imagex verify "$b"
check "added" has_content "$b" 1 /added/new.txt "$work/new.txt"
check "deleted" has_no_path "$b" 1 "$gone"
check "renamed" has_content "$b" 1 /renamed "$small$victim"
check "old name" has_no_path "$b" 1 "$victim"
check "the other image" same_image "$a" 2 "$b" 2
finish "small tree: wimlib-imagex verify, dir, extract; the other image unchanged"

begin set
timed mm set "$b:2" NAME="Another name" DESCRIPTION=words WINDOWS/EDITIONID=Professional --boot
check "wimlib-imagex verify" wimlib-imagex verify "$b"
check "name" field_is "$b" 2 Name "Another name"
check "description" field_is "$b" 2 Description words
check "edition" field_is "$b" 2 "Edition ID" Professional
check "boot index" boot_index_is "$b" 2
finish "wimlib-imagex info"

begin delete
timed mm delete "$b" 1
check "wimlib-imagex verify" wimlib-imagex verify "$b"
check "one image" image_count_is "$b" 1
check "the image that stays" same_image "$a" 2 "$b" 1
check "boot index" boot_index_is "$b" 1
finish "wimlib-imagex verify, info; the other image equal, still the one that boots"
rm -f "$b" "$work"/{network,archive}.wim

begin "apply to NTFS"
volume=$work/ntfs.img
truncate -s $(((raw_mib * 5 / 4 + file_count / 500 + 300) * 1024 * 1024)) "$volume"
mkntfs -F -q -Q -L REAL "$volume" >>"$log" 2>&1
timed mm apply "$a:1" "$volume"
check "ntfsfix" ntfsfix --no-action "$volume"
if ntfs-3g -o ro,streams_interface=none "$volume" "$work/mnt" >>"$log" 2>&1; then
    # Symbolic links: ntfs-3g shows its own idea of a target; recapture below judges those.
    check "diff of files" cmp \
        <(cd "$tree" && find . -xdev -type f -print0 | sort -z | xargs -0 sha1sum) \
        <(cd "$work/mnt" && find . -xdev -type f -print0 | sort -z | xargs -0 sha1sum)
    check "as many links" test "$(find "$tree" -xdev -type l | wc -l)" -eq \
        "$(find "$work/mnt" -xdev -type l | wc -l)"
    umount "$work/mnt"
else
    problems+=("ntfs-3g does not mount it")
fi
finish "ntfs-3g mounts it; SHA-1 of every file and path = source; ntfsfix"

begin "capture NTFS"
timed mm capture "$volume" "$work/again.wim" --name real --everything
check "wimlib-imagex verify" wimlib-imagex verify "$work/again.wim"
has_acls=no # nothing captured from Linux has any; the volume gave its own
check "equal image" same_image "$a" 1 "$work/again.wim" 1
has_acls=yes
rm -f "$work/again.wim" "$volume"
finish "applied, captured again: equal image (dir --detailed), but for the ACLs that NTFS adds"

begin "NTFS to NTFS"
for name in first second; do
    truncate -s 600M "$work/$name.img"
    mkntfs -F -q -Q -L "$name" "$work/$name.img" >>"$log" 2>&1
done
timed mm apply "$a:2" "$work/first.img"
timed mm capture "$work/first.img" "$work/first.wim" --name small --everything
timed mm apply "$work/first.wim:1" "$work/second.img"
timed mm capture "$work/second.img" "$work/second.wim" --name small --everything
check "wimlib-imagex verify" wimlib-imagex verify "$work/second.wim"
check "equal image" same_image "$work/first.wim" 1 "$work/second.wim" 1
check "no ACLs in it" grep -q '^Security Descriptor' "$work/image.1"
finish "small tree with ACLs: captured, applied, captured: equal image"

if ((objections)); then
    echo "$objections objections; see $log"
    exit 1
fi
echo "no judge objects"
