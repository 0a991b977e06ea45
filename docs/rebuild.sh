#!/usr/bin/env bash
# Rebuilds a PostgreSQL data directory from a walkeep repository without walkeep.
#
#   rebuild.sh REPOSITORY CLUSTER LABEL|latest TARGET [IDENTITY]
#
# REPOSITORY  a directory: a file repository, or a copy of a bucket
# CLUSTER     the cluster's name in it
# LABEL       a backup: the name of a folder under backup/
# TARGET      the data directory to make; it must not exist
# IDENTITY    the age identity file, if the repository is encrypted
#
# It needs bash, awk, the GNU core utilities and zstd; for an encrypted repository also age. Afterwards start the
# server: it recovers to the end of the WAL in the repository. For an earlier target add recovery_target_time or another
# recovery_target_… to TARGET/postgresql.auto.conf first. Tablespaces come to TARGET.tablespaces/OID, configuration files
# from outside the data directory to TARGET.config. docs/format.md explains what is read here.
set -euo pipefail
export LC_ALL=C
umask 077

fail() {
    echo "rebuild.sh: $*" >&2
    exit 1
}

[ $# -ge 4 ] || fail "usage: rebuild.sh REPOSITORY CLUSTER LABEL|latest TARGET [IDENTITY]"
repository=$(realpath "$1") cluster=$2 label=$3 target=$(realpath -m "$4") identity=${5:+$(realpath "$5")}
case $repository$target$identity in
*[\'\"\\\$\`]* | *$'\n'*) fail "quotes, backslashes, dollars and line ends in paths are more than this script can do" ;;
esac
[ -e "$repository/walkeep.json" ] || fail "$repository is no walkeep repository: there is no walkeep.json"
[ ! -e "$target" ] || fail "$target exists"

encrypted() {
    head -c 1024 "$1" | grep -q '"encryption":"age"'
}

# Prints the content of a sealed object. The first 1,024 bytes are its header, which zstd skips and age must not see.
open() {
    if encrypted "$1"; then
        [ -n "$identity" ] || fail "$1 is encrypted: name an identity file"
        tail -c +1025 "$1" | age -d -i "$identity" | zstd -dcq
    else
        zstd -dcq "$1"
    fi
}

# Sets `path` to the bytes of a percent-encoded path.
decode() {
    printf -v path '%b' "${1//%/\\x}"
}

# --- Which backup: the labels sort by time; of a backup's manifests the highest generation counts. ---

[ "$label" != latest ] || label='*'
manifest=$(find "$repository/$cluster" -path "$repository/$cluster/*/backup/$label/manifest-????????*" -type f |
    awk -F/ '{ print $(NF-1) "/" $NF "\t" $0 }' | sort | tail -n 1 | cut -f 2-)
[ -n "$manifest" ] || fail "$repository has no such backup of $cluster"
branch=${manifest%/backup/*}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
open "$manifest" >"$work/manifest"
label=$(basename "$(dirname "$manifest")")
segment_size=$(sed -n '1s/.*"segment_size":\([0-9]*\).*/\1/p' "$work/manifest")
[ "$(sed -n '1s/^{"format":\([0-9]*\),.*/\1/p' "$work/manifest")" = 1 ] || fail "$manifest has a format unknown here"
echo "rebuilding $target from backup $label"

# --- Folders and empty files: D and F records. What no extent covers is zeros. ---

mkdir -p "$target"
tail -n +2 "$work/manifest" | awk -F '\t' -v OFS='\t' '
    $1 == "D" { print "D", $2, 0, $3 }
    $1 == "F" { print "F", $2, $3, $4 }' |
    while IFS=$'\t' read -r kind encoded size mode; do
        decode "$encoded"
        if [ "$kind" = D ]; then
            mkdir -p -- "$target/$path"
        else
            mkdir -p -- "$(dirname -- "$target/$path")"
            truncate -s "$size" -- "$target/$path"
        fi
        chmod -- "$mode" "$target/$path"
    done
# Until everything else is there the server must find no control file.
mv "$target/global/pg_control" "$work/pg_control"

# --- The files' bytes: E records, pack by pack, each opened once. ---

awk -F '\t' '$1 == "P" { print $2 }' "$work/manifest" >"$work/packs"
awk -F '\t' -v OFS='\t' '
    $1 == "F" { path = $2 }
    $1 == "E" { print $4, $5, $2, $3, path }' "$work/manifest" | sort -n -k 1,1 -k 2,2 >"$work/extents"
opened=
while IFS=$'\t' read -r pack pack_offset file_offset length encoded; do
    if [ "$pack" != "$opened" ]; then
        open "$branch/pack/$(sed -n "$((pack + 1))p" "$work/packs")" >"$work/raw"
        opened=$pack
    fi
    decode "$encoded"
    file=$target/$path
    [ "$path" != global/pg_control ] || file=$work/pg_control
    dd if="$work/raw" of="$file" bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc status=none \
        skip="$pack_offset" count="$length" seek="$file_offset"
done <"$work/extents"
rm -f "$work/raw"

# --- Tablespaces: a folder of their own each, and a tablespace_map that says where, so that the server links to them. ---

if [ -s "$target/tablespace_map" ]; then
    : >"$work/map"
    while read -r oid _; do
        [ -d "$target/pg_tblspc/$oid" ] || continue
        mkdir -p "$target.tablespaces"
        mv "$target/pg_tblspc/$oid" "$target.tablespaces/$oid"
        echo "$oid $target.tablespaces/$oid" >>"$work/map"
    done <"$target/tablespace_map"
    cat "$work/map" >"$target/tablespace_map"
fi

# --- Configuration from outside the data directory is not the server's to find here. ---

if [ -d "$target/.walkeep-external" ]; then
    mv "$target/.walkeep-external" "$target.config"
    echo "configuration files from outside the data directory are in $target.config"
fi

# --- WAL that is in fragments or journals only: of each such segment the longest beginning that one epoch holds. ---
#
# The names are <epoch>-<writer>-<from>-<to>-<digest>, with <from> and <to> as eight upper-case hexadecimal digits, so
# that they compare as text; or <epoch>-<writer>-<from>-<nonce>.journal: a file that grew, whose last record a crash may
# have cut off. The rest of the segment is zeros: recovery ends there.

# Prints the bytes of a fragment or journal.
part() {
    case $1 in
    *.journal) zstd -dcq "$1" 2>/dev/null || true ;;
    *) open "$1" ;;
    esac
}

# Prints epoch, <from>, <to> and path of each file of a tail.
parts() {
    find "$1" -type f | while read -r file; do
        IFS=- read -r epoch writer from to _ <<<"$(basename "$file")"
        case $file in
        *.journal) to=$(printf '%08X' $((16#$from + $(part "$file" | wc -c)))) ;;
        esac
        printf '%s-%s\t%s\t%s\t%s\n' "$epoch" "$writer" "$from" "$to" "$file"
    done
}

mkdir -p "$target/pg_wal/archive_status"
find "$branch/wal" -path '*/tail/*' -type d -name '????????????????????????' | while read -r tail; do
    segment=$(basename "$tail")
    log=$(dirname "$(dirname "$tail")")
    [ -z "$(find "$log" -maxdepth 1 -name "$segment-*")" ] || continue
    parts "$tail" | sort | awk -F '\t' '
        $1 != epoch { epoch = $1; reached = "00000000"; files = "" }
        "x" $2 <= "x" reached && "x" $3 > "x" reached {
            reached = $3
            files = files $2 "\t" $4 "\n"
            if ("x" reached > "x" longest) { longest = reached; chosen = files }
        }
        END { printf "%s", chosen }' |
        while IFS=$'\t' read -r from fragment; do
            part "$fragment" | dd of="$target/pg_wal/$segment" bs=1M iflag=fullblock oflag=seek_bytes \
                conv=notrunc status=none seek="$((16#$from))"
        done
    if [ -e "$target/pg_wal/$segment" ]; then
        truncate -s "$segment_size" "$target/pg_wal/$segment"
    fi
done

# --- Recovery: the other segments and the history files come out of the repository one by one. ---
#
# %f and %p are filled in by the server. A name with two digests is a conflict that an operator has to settle: then
# nothing is taken.

wal="${branch//%/%%}/wal"
command='zstd -dcq "$1" > "%p"'
if [ -n "$identity" ]; then
    command="if head -c 1024 \"\$1\" | grep -q encryption...age; then \
tail -c +1025 \"\$1\" | age -d -i \"${identity//%/%%}\" | zstd -dcq > \"%p\"; else $command; fi"
fi
cat >>"$target/postgresql.auto.conf" <<CONF
# Written by rebuild.sh. The last line about a setting counts.
restore_command = 'set -- "$wal"/*/*/%f-*; test -e "\$1" || set -- "$wal"/%f-*; test -e "\$1" && test \$# -eq 1 && $command'
recovery_target = ''
recovery_target_time = ''
recovery_target_xid = ''
recovery_target_lsn = ''
recovery_target_name = ''
recovery_target_timeline = 'latest'
recovery_target_action = 'promote'
# A copy must not archive into the repository of the server that it was made from, and nobody confirms its commits.
archive_mode = 'off'
synchronous_standby_names = ''
CONF
rm -f "$target/standby.signal"
: >"$target/recovery.signal"

# --- Times last, and the control file last of all: with it the directory can be started. ---

awk -F '\t' -v OFS='\t' '$1 == "F" { print $2, $5 }' "$work/manifest" | while IFS=$'\t' read -r encoded mtime; do
    decode "$encoded"
    [ ! -e "$target/$path" ] || touch -d "@$mtime" -- "$target/$path"
done
chmod 700 "$target"
sync
mv "$work/pg_control" "$target/global/pg_control"
sync
echo "done: start the server with  pg_ctl -D $target start"
