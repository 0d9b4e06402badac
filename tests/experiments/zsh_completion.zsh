# What an interactive zsh makes of beginnings of `localization` when Tab is pressed:
# zsh -f THIS FOLDER_OF_PROGRAMS
zmodload zsh/zpty

zpty shell 'TERM=vt100 PS1= zsh -f -i'
# Ctrl-X shows what stands in the line; what the terminal echoes of this has no such brackets.
zpty -w shell "PATH=$1:\$PATH; autoload -Uz compinit && compinit -u -D"
zpty -w shell 'source <(localization completion zsh)'
zpty -w shell 'show() { print -r -- "{"{"$BUFFER"}"}"; BUFFER= }; zle -N show; bindkey ^X show'
for line in 'localization pre' 'localization run --learn' 'localization run --norm po' \
  'localization run --norm=po' 'localization run --preset pap'; do
  zpty -w -n shell "$line"$'\t\C-x'
  zpty -r -m shell answer '*{{*}}*' || exit 1
  answer=${answer##*\{\{}
  print -r -- "$line: ${answer%%\}\}*}"
done
zpty -d shell
