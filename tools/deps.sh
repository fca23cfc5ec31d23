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
    stress-ng dbench xz-utils e2fsprogs iproute2 python3 openssl"
bench_packages="glusterfs-server glusterfs-client sqlite3 fio dbench git attr openssl"
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

# Waits for another apt that runs (a fresh machine updates itself), keeps configuration files that were changed.
apt_install() {
    apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef \
        -o Dpkg::Options::=--force-confold "$@" </dev/null >/tmp/cfs-deps.$$ 2>&1 && { rm -f /tmp/cfs-deps.$$; return 0; }
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

# The machine's own source of bookworm with the suite replaced: the first entry of debian.sources, or line of
# sources.list, that has the suite itself (not only its updates) and is no disc.
backports_stanza() { # FILE
    awk 'BEGIN { RS = ""; ORS = "\n" }
        /(^|\n)Types:([^\n]*[ \t])?deb([ \t\n]|$)/ && /(^|\n)Suites:([^\n]*[ \t])?bookworm([ \t\n]|$)/ && !/(^|\n)Enabled:[ \t]*no/ && !/(^|\n)URIs:[ \t]*cdrom:/ { print; exit }' "$1" |
        sed -E 's/^Suites:.*/Suites: bookworm-backports/; s/^Types:.*/Types: deb/'
}
backports_line() { # FILE
    awk '$1 == "deb" {
        for (i = 2; i < NF; i++)
            if ($i !~ /^\[?cdrom:/ && $i ~ /^[a-z+]+:\// && $(i + 1) == "bookworm") { $(i + 1) = "bookworm-backports"; print; exit }
        }' "$1"
}
add_backports() {
    local to=/etc/apt/sources.list.d/cfs-backports text=
    [ -f /etc/apt/sources.list.d/debian.sources ] && text=$(backports_stanza /etc/apt/sources.list.d/debian.sources) && to=$to.sources
    [ -z "$text" ] && [ -f /etc/apt/sources.list ] && text=$(backports_line /etc/apt/sources.list) && to=${to%.sources}.list
    [ -n "$text" ] || fail "libraft-dev >= $raft_min is in bookworm-backports; found no package source of bookworm to derive that from: add it by hand"
    printf '%s\n' "$text" >"$to" || fail "cannot write $to"
    say "added $to (bookworm-backports)"
    updated=
    if ! apt-get -qq update; then
        rm -f "$to" # else no later update would succeed
        fail "the mirror of this machine has no bookworm-backports (removed $to again); libraft-dev >= $raft_min is needed from there"
    fi
    updated=1
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
