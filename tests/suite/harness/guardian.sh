# Ends what a test process started and removes its folder, however that process ended.
# $1 is the folder. All that the tests start has its working folder inside, which is how it is found.
root=$1

# The other end of this pipe closes with the test process, even after kill -9.
while read -r _; do :; done

inside() { find /proc/[0-9]*/cwd -prune -lname "$1" 2>/dev/null | sed 's,^/proc/,,; s,/cwd$,,'; }

# Postmasters end their own backends and return their shared memory, so they are asked; the rest is killed.
for file in "$root"/*/data/postmaster.pid; do
  [ -e "$file" ] || continue
  read -r pid <"$file"
  [ "$(readlink "/proc/$pid/cwd")" = "${file%/postmaster.pid}" ] && kill -QUIT "$pid"
done
postgres=$(inside "$root/*/data*")
for pid in $(inside "$root*"); do
  case " $(echo $postgres) " in
    *" $pid "*) ;;
    *) kill -9 "$pid" ;;
  esac
done
tries=0
while [ $tries -lt 80 ] && [ -n "$(inside "$root*")" ]; do
  sleep 0.1
  tries=$((tries + 1))
done
for pid in $(inside "$root*"); do kill -9 "$pid"; done

# The file outlives only a postmaster that was killed; its 7th line names the shared memory left behind.
for file in "$root"/*/data/postmaster.pid; do
  [ -e "$file" ] || continue
  ipcrm -m "$(sed -n 7p "$file" | awk '{ print $2 }')"
done
rm -rf "$root"
