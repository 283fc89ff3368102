# Completion of rgunicornctl for fish.

function __rgunicornctl_instances
    set -l folder /etc/rgunicorn
    set -q RGUNICORN_ETC; and set folder $RGUNICORN_ETC
    for file in $folder/*.toml
        set -l name (basename $file .toml)
        test $name = example; or echo $name
    end
end

complete -c rgunicornctl -f
complete -c rgunicornctl -s i -l instance -xa '(__rgunicornctl_instances)' -d 'The NAME in rgunicorn@NAME'
complete -c rgunicornctl -s s -l socket -rF -d 'The control socket itself'
complete -c rgunicornctl -s j -l json -d 'One JSON object instead of text'
complete -c rgunicornctl -s c -l command -x -d 'The command as one argument'
complete -c rgunicornctl -s h -l help -d 'Print the commands'
complete -c rgunicornctl -s V -l version -d 'Print the version'
complete -c rgunicornctl -a status -d 'The instance at a glance'
complete -c rgunicornctl -a workers -d 'Each worker'
complete -c rgunicornctl -a requests -d 'Requests that run now'
complete -c rgunicornctl -a settings -d 'Every setting with its origin'
complete -c rgunicornctl -a scale -d 'So many workers'
complete -c rgunicornctl -a retire -d 'Replace the worker of a slot'
complete -c rgunicornctl -a reload -d 'A new generation'
complete -c rgunicornctl -a upgrade -d 'Run the installed program'
complete -c rgunicornctl -a reopen -d 'Open the log files anew'
complete -c rgunicornctl -a stop -d 'Stop and wait for the end'
complete -c rgunicornctl -l quick -n '__fish_seen_subcommand_from stop' -d 'Cut off the requests that run'
complete -c rgunicornctl -l join -n '__fish_seen_subcommand_from reload' -d 'Join the reload that systemd has ordered by signal'
