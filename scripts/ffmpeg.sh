#!/bin/sh
# musdb and museval refuse to import without ffmpeg and ffprobe: install them where that is possible, else say how.
command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ffmpeg (museval and musdb need it)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq ffmpeg; } >/dev/null 2>&1
    command -v ffmpeg >/dev/null && exit 0
fi
echo "ffmpeg is missing: ISR, SIR and SAR (museval) and musdb's own reader stay off, everything else works." \
    "To have them: apt install ffmpeg, brew install ffmpeg or conda install ffmpeg." >&2
exit 0
