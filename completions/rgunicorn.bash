# Completion of rgunicorn and rgunicornctl for bash. Needs nothing but bash itself.

# begin made: options
_rgunicorn_flags='--config --instance --python --chdir --pythonpath --env --env-file --preload --preload-strict --bind --backlog --umask --workers --worker-class --threads --worker-connections --timeout --graceful-timeout --boot-timeout --keep-alive --header-timeout --body-timeout --send-timeout --queue-timeout --max-requests --max-requests-jitter --max-worker-memory --max-worker-memory-hard --max-worker-lifetime --idle-timeout --reload-strategy --reload-check --limit-request-line --limit-request-fields --limit-request-field_size --limit-request-field-size --limit-request-body --no-request-buffering --request-buffer --spool-limit --response-buffer --no-sendfile --no-request-id --health-path --permit-unconventional-http-method --permit-unconventional-http-version --casefold-http-method --strip-header-spaces --forwarded-allow-ips --forwarder-headers --header-map --proxy-protocol --proxy-allow-from --user --group --initgroups --pid --name --log-level --error-logfile --log-file --access-logfile --access-logformat --log-format --capture-output --check-config --print-config --asgi-loop --asgi-lifespan --asgi-disconnect-grace-period --websocket-max-message-size --websocket-ping-interval --websocket-ping-timeout --root-path --control-socket --control-socket-mode --no-control-socket --help --version'
_rgunicorn_explained='app config instance python chdir pythonpath raw_env env_file preload_app preload_strict paste raw_paste_global_conf bind backlog reuse_port umask workers worker_class threads worker_connections worker_tmp_dir timeout graceful_timeout boot_timeout keepalive header_timeout body_timeout send_timeout queue_timeout max_requests max_requests_jitter max_worker_memory max_worker_memory_hard max_worker_lifetime idle_timeout reload_strategy reload_check limit_request_line limit_request_fields limit_request_field_size limit_request_body request_buffering request_buffer spool_limit response_buffer sendfile request_id health_path permit_unconventional_http_method permit_unconventional_http_version casefold_http_method strip_header_spaces permit_obsolete_folding http_parser tmp_upload_dir forwarded_allow_ips secure_scheme_headers forwarder_headers header_map proxy_protocol proxy_allow_ips protocol uwsgi_allow_ips user group initgroups pidfile proc_name default_proc_name daemon loglevel errorlog accesslog access_log_format log_format capture_output enable_stdio_inheritance disable_redirect_access_to_syslog logger_class logconfig logconfig_dict logconfig_json syslog syslog_addr syslog_prefix syslog_facility statsd_host statsd_prefix dogstatsd_tags enable_backlog_metric check_config print_config reload reload_engine reload_extra_files spew asgi_loop asgi_lifespan asgi_disconnect_grace_period websocket_max_message_size websocket_ping_interval websocket_ping_timeout root_path control_socket control_socket_mode control_socket_disable http_protocols http2_cleartext http2_max_concurrent_streams http2_initial_window_size http2_max_frame_size http2_max_header_list_size keyfile certfile ssl_version cert_reqs ca_certs suppress_ragged_eofs do_handshake_on_connect ciphers dirty_apps dirty_workers dirty_timeout dirty_threads dirty_graceful_timeout on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_exec pre_request post_request child_exit worker_exit nworkers_changed on_exit ssl_context on_dirty_starting dirty_post_fork dirty_worker_init dirty_worker_exit exec exit'
_rgunicorn_follows() {
    words=
    case $1 in
        -c | --config) follows=file ;;
        --instance) follows=instance ;;
        --python) follows=file ;;
        --chdir) follows=folder ;;
        --pythonpath) follows=anything ;;
        -e | --env) follows=anything ;;
        --env-file) follows=file ;;
        -b | --bind) follows=anything ;;
        --backlog) follows=anything ;;
        -m | --umask) follows=anything ;;
        -w | --workers) follows=anything ;;
        -k | --worker-class) follows=words words='sync gthread gevent asgi auto' ;;
        --threads) follows=anything ;;
        --worker-connections) follows=anything ;;
        -t | --timeout) follows=anything ;;
        --graceful-timeout) follows=anything ;;
        --boot-timeout) follows=anything ;;
        --keep-alive) follows=anything ;;
        --header-timeout) follows=anything ;;
        --body-timeout) follows=anything ;;
        --send-timeout) follows=anything ;;
        --queue-timeout) follows=anything ;;
        --max-requests) follows=anything ;;
        --max-requests-jitter) follows=anything ;;
        --max-worker-memory) follows=anything ;;
        --max-worker-memory-hard) follows=anything ;;
        --max-worker-lifetime) follows=anything ;;
        --idle-timeout) follows=anything ;;
        --reload-strategy) follows=words words='overlap rolling' ;;
        --reload-check) follows=anything ;;
        --limit-request-line) follows=anything ;;
        --limit-request-fields) follows=anything ;;
        --limit-request-field_size | --limit-request-field-size) follows=anything ;;
        --limit-request-body) follows=anything ;;
        --request-buffer) follows=anything ;;
        --spool-limit) follows=anything ;;
        --response-buffer) follows=anything ;;
        --health-path) follows=anything ;;
        --forwarded-allow-ips) follows=anything ;;
        --forwarder-headers) follows=anything ;;
        --header-map) follows=words words='drop refuse dangerous' ;;
        --proxy-protocol) follows=words words='off v1 v2 auto' ;;
        --proxy-allow-from) follows=anything ;;
        -u | --user) follows=anything ;;
        -g | --group) follows=anything ;;
        -p | --pid) follows=file ;;
        -n | --name) follows=anything ;;
        --log-level) follows=words words='debug info warning error critical' ;;
        --error-logfile | --log-file) follows=file ;;
        --access-logfile) follows=file ;;
        --access-logformat) follows=anything ;;
        --log-format) follows=words words='text json' ;;
        --asgi-loop) follows=words words='auto asyncio uvloop' ;;
        --asgi-lifespan) follows=words words='auto on off' ;;
        --asgi-disconnect-grace-period) follows=anything ;;
        --websocket-max-message-size) follows=anything ;;
        --websocket-ping-interval) follows=anything ;;
        --websocket-ping-timeout) follows=anything ;;
        --root-path) follows=anything ;;
        --control-socket) follows=file ;;
        --control-socket-mode) follows=anything ;;
        *) follows=nothing ;;
    esac
}
# end made: options

# Names of instances: the files in /etc/rgunicorn.
_rgunicorn_instances() {
    local file
    for file in "${RGUNICORN_ETC:-/etc/rgunicorn}"/*.toml; do
        [[ -e $file && $file != */example.toml ]] && basename "$file" .toml
    done
}

_rgunicorn() {
    local current=$2 previous=$3 follows words
    COMPREPLY=()
    # bash takes the = of --flag=value for a word of its own.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case ${COMP_WORDS[1]} in
        explain)
            ((COMP_CWORD == 2)) && mapfile -t COMPREPLY < <(compgen -W "$_rgunicorn_explained" -- "$current")
            return ;;
        exec)
            case $COMP_CWORD in
                2) mapfile -t COMPREPLY < <(compgen -W "$(_rgunicorn_instances)" -- "$current") ;;
                3) COMPREPLY=(--) ;;
                4) mapfile -t COMPREPLY < <(compgen -c -- "$current") ;;
                *) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
            esac
            return ;;
    esac
    _rgunicorn_follows "$previous"
    case $follows in
        words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
        file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        folder) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
        instance) mapfile -t COMPREPLY < <(compgen -W "$(_rgunicorn_instances)" -- "$current") ;;
        anything) ;;
        nothing)
            if [[ $current == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$_rgunicorn_flags" -- "$current")
            elif ((COMP_CWORD == 1)); then
                mapfile -t COMPREPLY < <(compgen -W 'explain exec' -- "$current")
            fi ;;
    esac
}

_rgunicornctl() {
    local current=$2 previous=$3
    COMPREPLY=()
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case $previous in
        -i | --instance) mapfile -t COMPREPLY < <(compgen -W "$(_rgunicorn_instances)" -- "$current") ;;
        -s | --socket) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        -c | --command | scale | retire) ;;
        reload) mapfile -t COMPREPLY < <(compgen -W --join -- "$current") ;;
        stop) mapfile -t COMPREPLY < <(compgen -W --quick -- "$current") ;;
        *)
            if [[ $current == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W '--instance --socket --json --command --help --version' -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -W 'status workers requests settings scale retire reload upgrade reopen stop' -- "$current")
            fi ;;
    esac
}

complete -F _rgunicorn rgunicorn
complete -F _rgunicornctl rgunicornctl
