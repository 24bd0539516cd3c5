# Ends what a test process started and removes its folder, however that process ended.
# $1 is the folder. All that the tests start has its working folder inside, which is how it is found.
root=$1

# The other end of this pipe closes with the test process, even after kill -9.
while read -r _; do :; done

inside() { find /proc/[0-9]*/cwd -prune -lname "$root*" 2>/dev/null | sed 's,^/proc/,,; s,/cwd$,,'; }

# Postmasters end their own backends and give back their shared memory, so they are asked; the rest is killed.
# Asked again and again: one that is just starting has not written its file yet.
tries=0
while [ $tries -lt 100 ] && pids=$(inside) && [ -n "$pids" ]; do
  for pid in $pids; do
    folder=$(readlink "/proc/$pid/cwd")
    case $folder in
      */data) [ "$(head -n 1 "$folder/postmaster.pid")" = "$pid" ] && kill -QUIT "$pid" ;;
      *) kill -9 "$pid" ;;
    esac
  done
  sleep 0.1
  tries=$((tries + 1))
done
for pid in $(inside); do kill -9 "$pid"; done

# The file outlives only a server that was killed, initdb's too; its 7th line names the shared memory left behind.
for file in "$root"/*/*/postmaster.pid; do
  [ -e "$file" ] && ipcrm -m "$(sed -n 7p "$file" | awk '{ print $2 }')"
done
rm -rf "$root"
