#compdef bulkhead
# SPDX-License-Identifier: GPL-2.0-or-later
# zsh completion for bulkhead; made from the program's own tables.

@tables@

_bulkhead_value() {
    local -a names
    case $1 in
    file) _files ;;
    dir) _files -/ ;;
    machine) names=("${(@f)$(bulkhead vm list --names 2>/dev/null)}"); compadd -- "${(@)names:#}" ;;
    image) names=("${(@f)$(bulkhead image list --names 2>/dev/null)}"); compadd -- "${(@)names:#}" ;;
    switch) names=("${(@f)$(bulkhead switch list --names 2>/dev/null)}"); compadd -- "${(@)names:#}" ;;
    '='*) compadd -- "${(@s:,:)${1#=}}" ;;
    esac
}

_bulkhead() {
    local where options word kind
    local -i first=3 count=0 i
    local -a kinds
    # Which daemon: pairs before the command.
    while [[ $words[2] == --?* ]] && ((CURRENT > 3)); do
        words=(bulkhead $words[4,-1])
        ((CURRENT -= 2))
    done
    where=$words[2]
    if ((CURRENT == 2)); then
        compadd -- ${=$(_bulkhead_verbs '')} --help --version
        return
    fi
    if [[ -n $(_bulkhead_verbs "$where") ]]; then
        if ((CURRENT == 3)); then
            compadd -- ${=$(_bulkhead_verbs "$where")} --help
            return
        fi
        where+=" $words[3]"
        first=4
    fi
    options=" $(_bulkhead_options "$where") "
    for ((i = first; i < CURRENT; i++)); do
        word=$words[i]
        if [[ $word != -* ]]; then
            ((count += 1))
        elif [[ $options == *" $word:"* ]]; then
            if ((i + 1 == CURRENT)); then
                kind=${options#*" $word:"}
                _bulkhead_value "${kind%% *}"
                return
            fi
            ((i += 1))
        fi
    done
    if [[ $words[CURRENT] == -* ]]; then
        compadd -- ${${=options}%%:*}
        return
    fi
    kinds=(${=$(_bulkhead_arguments "$where")})
    _bulkhead_value "$kinds[count + 1]"
}

_bulkhead "$@"
