# The inside of a pod, from its own network and mount namespaces to its container's command:
#
#   pod.sh DIRECTORY COMMAND [ARGUMENT …]
#
# The image is this machine's root file system with DIRECTORY/image over it, and readable whatever
# $READABLE names; DIRECTORY/mounts says what is mounted where ("tmpfs" or a directory, then the
# path); the pod's address comes by stdin once its cable is plugged in. Nothing outside DIRECTORY is
# written to.
set -eu
directory=$1
shift
root=$directory/root

mount -t tmpfs pod "$directory"/layers
cd "$directory"/layers
mkdir work
cp -a ../image upper
mount -t overlay pod -o lowerdir=/,upperdir=upper,workdir=work "$root"
for path in /proc /sys /dev; do mount --rbind "$path" "$root$path"; done
while read -r source path; do
  mkdir -p "$root$path"
  if [ "$source" = tmpfs ]; then
    mount -t tmpfs -o mode=1777 pod "$root$path"
  else
    mount --bind "$source" "$root$path"
    mount -o remount,bind,ro "$root$path"
  fi
done < ../mounts
for path in $READABLE; do
  mkdir -p "$root$path"
  mount --rbind "$path" "$root$path"
  while path=$(dirname "$path") && [ "$path" != / ]; do chmod a+x "$root$path"; done
done
cp ../resolv.conf "$root"/etc/resolv.conf
if [ "$READ_ONLY" = true ]; then mount -o remount,ro "$root"; fi

read -r address gateway
ip link set lo up
ip address add "$address"/24 dev eth0
ip link set eth0 up
ip route add default via "$gateway"

exec < /dev/null chroot "$root" \
  setpriv --reuid="$RUN_AS_USER" --regid="$RUN_AS_GROUP" --groups="$GROUPS_OF_POD" \
  --no-new-privs --bounding-set=-all --inh-caps=-all --pdeathsig=KILL env -i "$@"
