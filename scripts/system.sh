#!/bin/sh
# Programs that Python packages cannot bring: installed where that is possible, else it says what goes without them.
#
#   sh scripts/system.sh ffmpeg chromium fluidsynth
need() { # command, Debian packages, what goes without it
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $2"
        # shellcheck disable=SC2086  # several packages
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $2; } >/dev/null 2>&1
        command -v "$1" >/dev/null && return
    fi
    echo "$1 is missing (apt install $2, or your system's packages): $3" >&2
}
for program in "$@"; do
    case $program in
        ffmpeg) need ffprobe ffmpeg "museval, the referee of the scores, and musdb's own reader stay off" ;;
        chromium) need chromedriver "chromium chromium-driver" "the report is not tested in a browser" ;;
        fluidsynth) need fluidsynth "fluidsynth timgm6mb-soundfont" "\`jaxsep data render\` is tested with a stand-in" ;;
    esac
done
