"""The working folder on a device, of its user alone, and the scripts that plain `sh` runs in it.

Every script enters the folder first and looks whether it is safe to: what lies there is run and loaded.
"""

from __future__ import annotations

SESSION_S = 6 * 3600  # after which `timeout` ends a session on the device, whatever happened to the host

# Codes that a script ends with; sh, ssh, timeout and flock have others.
IN_USE, NOT_ITS_OWN, BELOW_STRANGERS = 75, 76, 77
# $1 working folder, $2 a folder below it, or none: both are made where they are missing, for their user
# alone, and entered. Each must be a folder, no link, of this user, in which nobody else may write; and above
# the working folder, nobody else may write, unless in a sticky folder of root's, as /tmp is.
_ENTER = f"""set -e; umask 077; me=$(id -u)
enter() {{ test ! -L "$1" || exit {NOT_ITS_OWN}; mkdir -p "$1"; cd "$1"
  test "$(find . -prune -type d -user "$me" ! -perm -020 ! -perm -002 -print)" || exit {NOT_ITS_OWN}; }}
enter "$1"
(at=$(pwd -P); while test "$at" != /; do at=$(dirname "$at")
  test "$(find "$at" -prune \\( ! -perm -002 -o -perm -1000 \\( -user 0 -o -user "$me" \\) \\) -print)" ||
    exit {BELOW_STRANGERS}; done)
below=$2; shift 2; old=$IFS; IFS=/; for part in $below; do enter "$part"; done; IFS=$old
"""
# After _ENTER's two, pairs of name and SHA-256: a tar of the files comes on standard input; each appears in
# the folder whole or not at all.
RECEIVE = _ENTER + (
    "new=.new.$$; trap 'rm -rf \"$new\"' EXIT; "
    'mkdir "$new"; tar -x -o -f - -C "$new"; while [ $# -gt 0 ]; do '
    'test "$(sha256sum < "$new/$1" | cut -c1-64)" = "$2"; mv -f "$new/$1" "$1"; shift 2; done'
)
# After _ENTER's two, pairs of name and SHA-256: prints the names that are missing or damaged.
MISSING = _ENTER + (
    'while [ $# -gt 0 ]; do test -f "$1" && test ! -L "$1" && '
    'test "$(sha256sum < "$1" | cut -c1-64)" = "$2" || echo "$1"; shift 2; done'
)
# Not `exec`: timeout ends with its child's signal, which ssh would report as a lost connection; sh turns it
# into 137.
SERVE = _ENTER + f'set +e; timeout -k 5 {SESSION_S} "$1" agent.py --serve; exit $?'
TAKE_LOCK = _ENTER + f'exec flock -n -E {IN_USE} lock sh -c "echo held; exec cat"'

UNSAFE = {
    NOT_ITS_OWN: "or one below it is a link, belongs to another user, or can be written by others",
    BELOW_STRANGERS: "lies in a folder in which others may put another in its place",
}
