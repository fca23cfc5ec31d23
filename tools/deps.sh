#!/usr/bin/env bash
# tools/deps.sh: installs what CFS needs on a Debian machine, and says so.
#   tools/deps.sh build     what `make up` needs: compiler and libraries
#   tools/deps.sh check     what `make check` needs besides
#   tools/deps.sh long      what `make check-long` needs besides
#   tools/deps.sh bench     what `make bench` needs besides
# Asks nothing. Installs only what is missing; silent when nothing is.
set -u
what=${1:-build}
export DEBIAN_FRONTEND=noninteractive

build_packages="gcc make pkg-config libfuse3-dev fuse3 libuv1-dev libleveldb-dev libisal-dev libssl-dev
    libprotobuf-c-dev protobuf-c-compiler protobuf-compiler libprotobuf-dev libnghttp2-dev g++ procps util-linux"
check_packages="check clang clang-tidy cppcheck libclang-rt-14-dev acl attr sqlite3 fio rsync git
    stress-ng dbench xz-utils e2fsprogs iproute2 python3"
bench_packages="glusterfs-server glusterfs-client sqlite3 fio dbench git attr"
# The server alone, without the service that mariadb-server would start.
long_packages="mariadb-server-core mariadb-client-core"
raft_min=0.22

say() { printf 'deps: %s\n' "$*"; }
fail() { printf 'deps: %s\n' "$*" >&2; exit 1; }

missing() {
    local p
    for p in "$@"; do
        dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
    done
}

need_apt() {
    command -v apt-get >/dev/null || fail "this script installs with apt-get (Debian 12 or newer); install by hand: $*"
    [ "$(id -u)" = 0 ] || fail "packages are missing ($*); run as root, or install them by hand"
}

updated=
apt_update() {
    [ -n "$updated" ] && return
    apt-get -qq update || fail "apt-get update failed; look at its message above"
    updated=1
}

apt_install() {
    apt-get -qq -y --no-install-recommends "$@" >/tmp/cfs-deps.$$ 2>&1 && { rm -f /tmp/cfs-deps.$$; return 0; }
    cat /tmp/cfs-deps.$$ >&2
    rm -f /tmp/cfs-deps.$$
    return 1
}

install_list() {
    local list
    list=$(missing "$@")
    [ -z "$list" ] && return 0
    need_apt "$list"
    say "installing: $list"
    apt_update
    # shellcheck disable=SC2086
    apt_install install $list || fail "could not install: $list"
}

raft_version() { dpkg-query -W -f '${Version}' libraft-dev 2>/dev/null; }
raft_good() {
    local v
    v=$(raft_version)
    [ -n "$v" ] && dpkg --compare-versions "$v" ge "$raft_min"
}

# libraft 0.15 (Debian 12 main) commits entries of old terms by counting replicas and loses them: never that one.
install_raft() {
    raft_good && return 0
    need_apt "libraft-dev >= $raft_min"
    apt_update
    if ! apt-cache madison libraft-dev | awk '{print $3}' | grep -qE '^0\.(2[2-9]|[3-9][0-9])|^[1-9]'; then
        add_backports
    fi
    local version
    version=$(apt-cache madison libraft-dev | awk '{print $3}' | while read -r v; do
        dpkg --compare-versions "$v" ge "$raft_min" && { echo "$v"; break; }; done)
    [ -n "$version" ] || fail "no libraft-dev >= $raft_min in the package sources; 0.15 is refused: it loses committed entries. Enable bookworm-backports."
    say "installing: libraft-dev $version (from backports)"
    apt_install install "libraft-dev=$version" "libraft0=$version" || fail "could not install libraft-dev $version"
    raft_good || fail "libraft-dev is $(raft_version) after installing; $raft_min or newer is needed (0.15 loses committed entries)"
}

# Adds bookworm-backports by copying the machine's own first source with the suite replaced.
add_backports() {
    local to=/etc/apt/sources.list.d/cfs-backports
    local deb822=/etc/apt/sources.list.d/debian.sources
    if [ -f "$deb822" ]; then
        awk 'BEGIN { RS = ""; } NR == 1 { print }' "$deb822" |
            sed -E 's/^Suites:.*/Suites: bookworm-backports/' >"$to.sources"
        say "added $to.sources (bookworm-backports)"
    elif [ -f /etc/apt/sources.list ]; then
        grep -E '^deb ' /etc/apt/sources.list | head -n 1 |
            awk '{ for (i = 1; i <= NF; i++) if ($i ~ /:\/\/|^file:|^cdrom:/) { $(i + 1) = "bookworm-backports"; break } print }' >"$to.list"
        say "added $to.list (bookworm-backports)"
    else
        fail "found no Debian package source to derive bookworm-backports from"
    fi
    updated=
    apt_update
}

case $what in
build)
    # shellcheck disable=SC2086
    install_list $build_packages
    install_raft
    ;;
check)
    # shellcheck disable=SC2086
    install_list $build_packages $check_packages
    install_raft
    ;;
long)
    # shellcheck disable=SC2086
    install_list $build_packages $check_packages $long_packages
    install_raft
    ;;
bench)
    # shellcheck disable=SC2086
    install_list $build_packages $bench_packages
    install_raft
    ;;
*) fail "usage: tools/deps.sh build|check|long|bench" ;;
esac
