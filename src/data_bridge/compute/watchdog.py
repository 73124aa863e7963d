"""What a rented machine runs first: it lets us in, and it destroys itself when its time is over, whoever else died.

Plain `sh` with curl, wget or Python, whatever the image has. The machine's own key, which the vendor puts into its
environment and which can do nothing but to this machine, never stands on a command line.
"""

ONSTART = r"""
umask 077
S="$HOME/.data-bridge"; mkdir -p "$S" "$HOME/.ssh"; touch "$HOME/.no_auto_tmux"
grep -qF "$DATA_BRIDGE_LOGIN" "$HOME/.ssh/authorized_keys" 2>/dev/null || echo "$DATA_BRIDGE_LOGIN" >> "$HOME/.ssh/authorized_keys"
cat > "$S/watchdog.sh" <<'EOF'
trap '' TERM HUP INT
S="$HOME/.data-bridge"; born=$(date +%s); over=
url="$DATA_BRIDGE_API/api/v0/instances/$CONTAINER_ID/"
destroy() {
  if command -v curl >/dev/null; then
    printf 'header = "Authorization: Bearer %s"\n' "$CONTAINER_API_KEY" | curl -s -m 30 -o /dev/null -X DELETE -K - "$url"
  elif command -v python3 >/dev/null; then
    python3 -c 'import os,sys,urllib.request as u
u.urlopen(u.Request(sys.argv[1],method="DELETE",headers={"Authorization":"Bearer "+os.environ["CONTAINER_API_KEY"]}),timeout=30)' "$url" 2>/dev/null
  else
    printf 'header = Authorization: Bearer %s\n' "$CONTAINER_API_KEY" > "$S/wgetrc"
    WGETRC="$S/wgetrc" wget -q -T 30 -O /dev/null --method=DELETE "$url"
  fi
}
while :; do
  now=$(date +%s)
  if [ "$now" -ge "$DATA_BRIDGE_DEADLINE" ]; then break; fi
  if [ -e "$S/rc" ] || { [ -e "$S/pid" ] && ! kill -0 "$(cat "$S/pid")" 2>/dev/null; }; then
    over=${over:-$now}
    [ "$now" -ge $((over + DATA_BRIDGE_LINGER_S)) ] && break
  elif [ ! -e "$S/pid" ] && [ "$now" -ge $((born + DATA_BRIDGE_IDLE_S)) ]; then break
  fi
  sleep "$DATA_BRIDGE_TICK_S"
done
while :; do destroy; sleep "$DATA_BRIDGE_TICK_S"; done
EOF
setsid nohup sh "$S/watchdog.sh" </dev/null >/dev/null 2>&1 &
if [ -n "$CONTAINER_ID" ] && [ -n "$CONTAINER_API_KEY" ]; then echo $! > "$S/watchdog"; fi
"""

CHECK = 'test -s "$HOME/.data-bridge/watchdog" && kill -0 "$(cat "$HOME/.data-bridge/watchdog")"'
"""Succeeds where the watchdog watches and is able to destroy."""


def environment(
    *, api_url: str, login: str, deadline: float, idle_s: float, linger_s: float, tick_s: float
) -> dict[str, str]:
    """What the watchdog is told; no secret is in it. The deadline is absolute, so that it holds over restarts."""
    return {
        "DATA_BRIDGE_API": api_url,
        "DATA_BRIDGE_LOGIN": login,
        "DATA_BRIDGE_DEADLINE": str(int(deadline)),
        "DATA_BRIDGE_IDLE_S": str(int(idle_s)),
        "DATA_BRIDGE_LINGER_S": str(int(linger_s)),
        "DATA_BRIDGE_TICK_S": str(max(1, int(tick_s))),
    }
