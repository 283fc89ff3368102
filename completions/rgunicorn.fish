# Completion of rgunicorn for fish; that of rgunicornctl is in a file of its own, since fish loads them by name.

function __rgunicorn_instances
    set -l folder /etc/rgunicorn
    set -q RGUNICORN_ETC; and set folder $RGUNICORN_ETC
    for file in $folder/*.toml
        set -l name (basename $file .toml)
        test $name = example; or echo $name
    end
end

# Whether the question is `$argv[1]`, and how many words it has.
function __rgunicorn_asks
    set -l words (commandline -opc)
    test (count $words) -eq $argv[2]; and test "$words[2]" = $argv[1]
end

# begin made: options
set -g __rgunicorn_explained app config instance python chdir pythonpath raw_env env_file preload_app preload_strict paste raw_paste_global_conf bind backlog reuse_port umask workers worker_class threads worker_connections worker_tmp_dir timeout graceful_timeout boot_timeout keepalive header_timeout body_timeout send_timeout queue_timeout max_requests max_requests_jitter max_worker_memory max_worker_memory_hard max_worker_lifetime idle_timeout reload_strategy reload_check limit_request_line limit_request_fields limit_request_field_size limit_request_body request_buffering request_buffer spool_limit response_buffer sendfile request_id health_path permit_unconventional_http_method permit_unconventional_http_version casefold_http_method strip_header_spaces permit_obsolete_folding http_parser tmp_upload_dir forwarded_allow_ips secure_scheme_headers forwarder_headers header_map proxy_protocol proxy_allow_ips protocol uwsgi_allow_ips user group initgroups pidfile proc_name default_proc_name daemon loglevel errorlog accesslog access_log_format log_format capture_output enable_stdio_inheritance disable_redirect_access_to_syslog logger_class logconfig logconfig_dict logconfig_json syslog syslog_addr syslog_prefix syslog_facility statsd_host statsd_prefix dogstatsd_tags enable_backlog_metric check_config print_config reload reload_engine reload_extra_files spew asgi_loop asgi_lifespan asgi_disconnect_grace_period websocket_max_message_size websocket_ping_interval websocket_ping_timeout root_path control_socket control_socket_mode control_socket_disable http_protocols http2_cleartext http2_max_concurrent_streams http2_initial_window_size http2_max_frame_size http2_max_header_list_size keyfile certfile ssl_version cert_reqs ca_certs suppress_ragged_eofs do_handshake_on_connect ciphers dirty_apps dirty_workers dirty_timeout dirty_threads dirty_graceful_timeout on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_exec pre_request post_request child_exit worker_exit nworkers_changed on_exit ssl_context on_dirty_starting dirty_post_fork dirty_worker_init dirty_worker_exit exec exit
complete -c rgunicorn -s c -l config -rF -d 'Read settings from this TOML file'
complete -c rgunicorn -l instance -xa '(__rgunicorn_instances)' -d 'Name of this instance; reads /etc/rgunicorn/NAME.toml'
complete -c rgunicorn -l python -rF -d 'The application\'s interpreter'
complete -c rgunicorn -l chdir -xa '(__fish_complete_directories)' -d 'Working directory of the application, and first on sys.path'
complete -c rgunicorn -l pythonpath -x -d 'Folders put in front of sys.path, separated by commas'
complete -c rgunicorn -s e -l env -x -d 'Set NAME=VALUE in the application\'s environment'
complete -c rgunicorn -l env-file -rF -d 'Read the application\'s environment from these files'
complete -c rgunicorn -l preload -d 'Import the application once, before workers are forked'
complete -c rgunicorn -l preload-strict -d 'Refuse to fork an application that left threads or sockets behind'
complete -c rgunicorn -s b -l bind -x -d 'Listen on HOST:PORT, [IPV6]:PORT, unix:PATH, fd://N; may repeat'
complete -c rgunicorn -l backlog -x -d 'Connections that may wait to be accepted'
complete -c rgunicorn -s m -l umask -x -d 'umask of unix sockets, and of workers if it is set'
complete -c rgunicorn -s w -l workers -x -d 'Number of worker processes'
complete -c rgunicorn -s k -l worker-class -xa 'sync gthread gevent asgi auto' -d 'The pool: sync, gthread, gevent, asgi or auto'
complete -c rgunicorn -l threads -x -d 'Threads per worker (gthread)'
complete -c rgunicorn -l worker-connections -x -d 'Requests at once per worker (gevent, asgi)'
complete -c rgunicorn -s t -l timeout -x -d 'Seconds that a request may be in the application without progress'
complete -c rgunicorn -l graceful-timeout -x -d 'Seconds that running requests get at a stop or a reload'
complete -c rgunicorn -l boot-timeout -x -d 'Seconds that the application may take to be imported'
complete -c rgunicorn -l keep-alive -x -d 'Seconds that an idle connection is kept open'
complete -c rgunicorn -l header-timeout -x -d 'Seconds for the head of a request'
complete -c rgunicorn -l body-timeout -x -d 'Seconds without progress while a body arrives'
complete -c rgunicorn -l send-timeout -x -d 'Seconds without progress while a response is sent'
complete -c rgunicorn -l queue-timeout -x -d 'Seconds that a complete request may wait for a worker'
complete -c rgunicorn -l max-requests -x -d 'Requests after which a worker is replaced'
complete -c rgunicorn -l max-requests-jitter -x -d 'Random requests added to max_requests per worker'
complete -c rgunicorn -l max-worker-memory -x -d 'Memory at which a worker is replaced'
complete -c rgunicorn -l max-worker-memory-hard -x -d 'Memory at which a worker is killed'
complete -c rgunicorn -l max-worker-lifetime -x -d 'Seconds after which a worker is replaced'
complete -c rgunicorn -l idle-timeout -x -d 'Seconds without request or connection after which the instance ends'
complete -c rgunicorn -l reload-strategy -xa 'overlap rolling' -d 'How a reload replaces workers: overlap or rolling'
complete -c rgunicorn -l reload-check -x -d 'Requests that each new worker of a reload must answer before it serves'
complete -c rgunicorn -l limit-request-line -x -d 'Bytes of a request line'
complete -c rgunicorn -l limit-request-fields -x -d 'Number of header fields'
complete -c rgunicorn -l limit-request-field_size -l limit-request-field-size -x -d 'Bytes of one header field'
complete -c rgunicorn -l limit-request-body -x -d 'Bytes of a request body'
complete -c rgunicorn -l no-request-buffering -d 'Receive a body completely before the application is called'
complete -c rgunicorn -l request-buffer -x -d 'Bytes of a body kept in memory before it goes to a file'
complete -c rgunicorn -l spool-limit -x -d 'Bytes of all bodies in files'
complete -c rgunicorn -l response-buffer -x -d 'Bytes of a response kept for a slow reader'
complete -c rgunicorn -l no-sendfile -d 'Use sendfile(2) for wsgi.file_wrapper'
complete -c rgunicorn -l no-request-id -d 'Give every request an id: X-Request-ID'
complete -c rgunicorn -l health-path -x -d 'Path answered without the application, for probes'
complete -c rgunicorn -l permit-unconventional-http-method -d 'Accept methods in lower case, with #, or of odd lengths'
complete -c rgunicorn -l permit-unconventional-http-version -d 'Accept HTTP versions other than 1.x'
complete -c rgunicorn -l casefold-http-method -d 'Turn methods into upper case'
complete -c rgunicorn -l strip-header-spaces -d 'Accept spaces between a header\'s name and its colon (unsafe)'
complete -c rgunicorn -l forwarded-allow-ips -x -d 'Peers whose forwarding headers are believed'
complete -c rgunicorn -l forwarder-headers -x -d 'Headers with an underscore that a believed peer may set'
complete -c rgunicorn -l header-map -xa 'drop refuse dangerous' -d 'What happens to header names with an underscore'
complete -c rgunicorn -l proxy-protocol -xa 'off v1 v2 auto' -d 'Expect the PROXY protocol: off, v1, v2, auto'
complete -c rgunicorn -l proxy-allow-from -x -d 'Peers that may speak the PROXY protocol'
complete -c rgunicorn -s u -l user -x -d 'User of the workers, name or number'
complete -c rgunicorn -s g -l group -x -d 'Group of the workers, name or number'
complete -c rgunicorn -l initgroups -d 'Give the workers the supplementary groups of user'
complete -c rgunicorn -s p -l pid -rF -d 'Write the arbiter\'s process id to this file'
complete -c rgunicorn -s n -l name -x -d 'Name in the process titles'
complete -c rgunicorn -l log-level -xa 'debug info warning error critical' -d 'debug, info, warning, error or critical'
complete -c rgunicorn -l error-logfile -l log-file -rF -d 'File for records, - for stderr or the journal'
complete -c rgunicorn -l access-logfile -rF -d 'File for the access log, - for stdout or the journal'
complete -c rgunicorn -l access-logformat -x -d 'Template of an access log line'
complete -c rgunicorn -l log-format -xa 'text json' -d 'Form of records outside the journal: text or json'
complete -c rgunicorn -l capture-output -d 'Send what the application prints to errorlog'
complete -c rgunicorn -l check-config -d 'Check settings and application, and exit'
complete -c rgunicorn -l print-config -d 'Print every setting with its origin, and check as --check-config'
complete -c rgunicorn -l asgi-loop -xa 'auto asyncio uvloop' -d 'Event loop'
complete -c rgunicorn -l asgi-lifespan -xa 'auto on off' -d 'Lifespan protocol'
complete -c rgunicorn -l asgi-disconnect-grace-period -x -d 'Seconds for the application after a disconnect'
complete -c rgunicorn -l websocket-max-message-size -x -d 'Bytes of a WebSocket message'
complete -c rgunicorn -l websocket-ping-interval -x -d 'Seconds of silence after which a WebSocket\'s client is pinged'
complete -c rgunicorn -l websocket-ping-timeout -x -d 'Seconds in which a WebSocket\'s client must answer a ping'
complete -c rgunicorn -l root-path -x -d 'root_path of the ASGI scope'
complete -c rgunicorn -l control-socket -rF -d 'Path of the control socket'
complete -c rgunicorn -l control-socket-mode -x -d 'Permission bits of the control socket'
complete -c rgunicorn -l no-control-socket -d 'No control socket'
complete -c rgunicorn -s h -l help -d 'Print the options'
complete -c rgunicorn -s v -l version -d 'Print the version'
# end made: options

complete -c rgunicorn -f -n 'test (count (commandline -opc)) -eq 1' -a explain -d 'Tell all about a setting'
complete -c rgunicorn -f -n 'test (count (commandline -opc)) -eq 1' -a exec -d 'Run a command as an instance does'
complete -c rgunicorn -f -n '__rgunicorn_asks explain 2' -a '$__rgunicorn_explained'
complete -c rgunicorn -f -n '__rgunicorn_asks exec 2' -a '(__rgunicorn_instances)'
complete -c rgunicorn -f -n '__rgunicorn_asks exec 3' -a --
