# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for bulkhead; made from the program's own tables.

@tables@

# Names are lines: they may have spaces in them.
_bulkhead_names() {
    local name
    while IFS= read -r name; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <(bulkhead "$@" --names 2>/dev/null)
}

_bulkhead_value() {
    case $1 in
    file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    dir) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    machine) _bulkhead_names vm list ;;
    image) _bulkhead_names image list ;;
    switch) _bulkhead_names switch list ;;
    '='*) local words=${1#=}; mapfile -t COMPREPLY < <(compgen -W "${words//,/ }" -- "$cur") ;;
    esac
}

_bulkhead() {
    local cur=${COMP_WORDS[COMP_CWORD]} where first=2 count=0 i word option kinds COMP_WORDS=("${COMP_WORDS[@]}") COMP_CWORD=$COMP_CWORD
    COMPREPLY=()
    # Which daemon: pairs before the command.
    while [[ ${COMP_WORDS[1]} == --?* && $COMP_CWORD -gt 2 ]]; do
        COMP_WORDS=(bulkhead "${COMP_WORDS[@]:3}")
        COMP_CWORD=$((COMP_CWORD - 2))
    done
    where=${COMP_WORDS[1]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_bulkhead_verbs '') --help --version" -- "$cur")
        return
    fi
    if [ -n "$(_bulkhead_verbs "$where")" ]; then
        if [ "$COMP_CWORD" -eq 2 ]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_bulkhead_verbs "$where") --help" -- "$cur")
            return
        fi
        where+=" ${COMP_WORDS[2]}"
        first=3
    fi
    local options
    options=$(_bulkhead_options "$where")
    for ((i = first; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word != -* ]]; then
            count=$((count + 1))
        elif [[ " $options " =~ " $word:"([^ ]*) ]]; then
            if [ $((i + 1)) -eq "$COMP_CWORD" ]; then
                _bulkhead_value "${BASH_REMATCH[1]}"
                return
            fi
            i=$((i + 1))
        fi
    done
    if [[ $cur == -* ]]; then
        local names=
        for option in $options; do names+=" ${option%%:*}"; done
        mapfile -t COMPREPLY < <(compgen -W "$names" -- "$cur")
        return
    fi
    read -ra kinds < <(_bulkhead_arguments "$where")
    _bulkhead_value "${kinds[count]:-}"
}

complete -F _bulkhead bulkhead
