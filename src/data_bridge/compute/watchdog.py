"""What a rented machine runs first: it lets us in, and it destroys itself when its time is over, whoever else died.

Plain `sh` with curl, wget or Python, whatever the image has. The machine's own key, which the vendor puts into its
environment and which can do nothing but to this machine, never stands on a command line, and is sent to nobody before it
has to be: that somebody answers is found out without it.
"""

from data_bridge.model.rental import DEADLINE

ONSTART = r"""
umask 077
S="$HOME/.data-bridge"; mkdir -p "$S" "$HOME/.ssh"; touch "$HOME/.no_auto_tmux"
grep -qF "$DATA_BRIDGE_LOGIN" "$HOME/.ssh/authorized_keys" 2>/dev/null || echo "$DATA_BRIDGE_LOGIN" >> "$HOME/.ssh/authorized_keys"
rm -f "$S/watchdog"
[ -e "$S/born" ] || date +%s > "$S/born"
if [ -e "$S/started" ]; then touch "$S/restarted"; fi
cat > "$S/watchdog.sh" <<'EOF'
trap '' TERM HUP INT
S="$HOME/.data-bridge"; up=$(date +%s); over=
url="$DATA_BRIDGE_API/api/v0/instances/$CONTAINER_ID/"
ask() {
  K=; [ "$1" = DELETE ] && K=$CONTAINER_API_KEY; export K
  if command -v curl; then
    printf 'header = "Authorization: Bearer %s"\n' "$K" | curl -s -m 30 -o /dev/null -X "$1" -K - "$url"
  elif command -v python3; then
    python3 -c 'import os,sys,urllib.request as u,urllib.error as e
try: u.urlopen(u.Request(sys.argv[2],method=sys.argv[1],headers={"Authorization":"Bearer "+os.environ["K"]}),timeout=30)
except e.HTTPError: pass' "$1" "$url"
  elif wget --help 2>&1 | grep -q -e --method; then
    printf 'header = Authorization: Bearer %s\n' "$K" > "$S/wgetrc"
    WGETRC="$S/wgetrc" wget -q -T 30 -t 1 -O /dev/null --method="$1" "$url"
    case $? in 0|6|8) ;; *) false ;; esac
  else false
  fi
} >/dev/null 2>&1
while :; do
  now=$(date +%s)
  if [ "$now" -ge "$DATA_BRIDGE_DEADLINE" ] || [ "$now" -ge $(($(cat "$S/born") + DATA_BRIDGE_SECONDS)) ]; then break; fi
  if [ -e "$S/rc" ] || [ -e "$S/restarted" ] || { [ -e "$S/pid" ] && ! kill -0 "$(cat "$S/pid")" 2>/dev/null; }; then
    over=${over:-$now}
    [ "$now" -ge $((over + DATA_BRIDGE_LINGER_S)) ] && break
  elif [ ! -e "$S/pid" ] && [ "$now" -ge $((up + DATA_BRIDGE_IDLE_S)) ]; then break
  fi
  if [ ! -e "$S/watchdog" ] && [ -n "$CONTAINER_ID" ] && [ -n "$CONTAINER_API_KEY" ] && ask GET; then echo $$ > "$S/watchdog"; fi
  sleep "$DATA_BRIDGE_TICK_S"
done
while :; do ask DELETE; sleep "$DATA_BRIDGE_TICK_S"; done
EOF
setsid nohup sh "$S/watchdog.sh" </dev/null >/dev/null 2>&1 &
"""

CHECK = 'test -s "$HOME/.data-bridge/watchdog" && kill -0 "$(cat "$HOME/.data-bridge/watchdog")"'
"""Succeeds where the watchdog watches and is able to destroy: it has the means, and the service answers it."""


def environment(
    *, api_url: str, login: str, now: float, deadline: float, idle_s: float, linger_s: float, tick_s: float
) -> dict[str, str]:
    """What the watchdog is told; no secret is in it. The deadline is absolute, so that it holds over restarts; a machine
    whose clock is behind keeps it by the seconds since its first start."""
    return {
        "DATA_BRIDGE_API": api_url,
        "DATA_BRIDGE_LOGIN": login,
        DEADLINE: str(int(deadline)),
        "DATA_BRIDGE_SECONDS": str(max(0, int(deadline - now))),
        "DATA_BRIDGE_IDLE_S": str(int(idle_s)),
        "DATA_BRIDGE_LINGER_S": str(int(linger_s)),
        "DATA_BRIDGE_TICK_S": str(max(1, int(tick_s))),
    }
