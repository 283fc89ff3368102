//! The events that an administrator may act on: their ids, and what the journal's catalog says of them.
//!
//! The table is the only place where an id is written. `journalctl -x` shows the texts, from the catalog that
//! [`catalog`] generates. Invariant: an id, once released, means its event for ever; a new meaning gets a new id.
//! A record gets its id by naming the event among its keys: `info!(log, "serves"; event::READY, "workers" => 4)`.

use slog::{KV, Record, Serializer};

/// The slog key of a message id; it becomes the journal's `MESSAGE_ID`.
pub(crate) const KEY: &str = "message_id";

/// An event's identity and description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageId {
    /// The event's name in documentation and tests, the constant's own.
    pub name: &'static str,
    /// 128 random bits in lower-case hexadecimal digits, see sd_journal_print(3).
    pub uuid: &'static str,
    /// One line; `@FIELD@` is replaced by journalctl.
    pub subject: &'static str,
    /// What happened, why it may be fine, what to do.
    pub explanation: &'static str,
}

impl KV for MessageId {
    fn serialize(&self, _record: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str(KEY, self.uuid)
    }
}

macro_rules! events {
    ($($name:ident $uuid:literal $subject:literal $explanation:literal)*) => {
        $(
            #[doc = $explanation]
            pub const $name: MessageId =
                MessageId { name: stringify!($name), uuid: $uuid, subject: $subject, explanation: $explanation };
        )*

        /// All events, in the order of the table.
        pub const ALL: &[MessageId] = &[$($name),*];
    };
}

events! {
    STARTING "514da6fea50c4abab286d1b8cde80327"
    "rgunicorn instance @RGUNICORN_INSTANCE@ starts"
    "The arbiter has read its settings and now makes its listeners and its first generation of workers. It is not \
    yet ready; the record of that follows, or one that says why not."

    READY "bd59d98bb4b2414494332f5b8a49ad4d"
    "rgunicorn instance @RGUNICORN_INSTANCE@ serves"
    "All workers of the first generation have imported the application and accept connections."

    STOPPING "b5890b032644481b87a8f9dee69f8f72"
    "rgunicorn instance @RGUNICORN_INSTANCE@ stops"
    "The instance was told to stop, or its idle_timeout has passed. It accepts no more connections and finishes \
    the requests that it has begun, for at most graceful_timeout. With socket activation the socket stays with \
    systemd, and new clients wait there."

    STOP_HASTENED "6a5a6a9cb3df4b61a22e8f8f0e1ff577"
    "Instance @RGUNICORN_INSTANCE@ stops faster"
    "It was told a second time to stop, or at once: requests that run are cut off."

    STOPPED "efac6e09f49741bfa5e4b79ba20ab6a2"
    "rgunicorn instance @RGUNICORN_INSTANCE@ has stopped"
    "All workers have ended."

    ORPHANS_KILLED "75fa27c5a6e244019479570512e475cd"
    "What the application had left behind was killed"
    "Processes that the application has started and not waited for were still running when the instance had \
    stopped. Under systemd the unit's KillMode= does this; elsewhere rgunicorn does."

    IDLE "d1648bcd990a480bbdf82f927ad3b6b6"
    "rgunicorn instance @RGUNICORN_INSTANCE@ ends because nobody uses it"
    "No connection was open and no request came for idle_timeout. The socket stays with systemd, and the next \
    connection starts the instance again. Nothing needs to be done; with idle_timeout = 0 it stays up."

    START_FAILED "946ab875f53b4e6eada4c856dbb52c54"
    "rgunicorn instance @RGUNICORN_INSTANCE@ could not start"
    "The record says which setting, listener or file is the cause. Repair it and start the service again; with \
    socket activation, clients that are waiting are then answered."

    SETTINGS_WARNING "8bf302c8bd2e443faa492bcd81aa7ab1"
    "A setting of instance @RGUNICORN_INSTANCE@ deserves a look"
    "The instance runs, but a setting probably does not do what was meant. The record names setting, value and \
    where it came from."

    SIGNAL_IGNORED "27971e38103328b33f80d1878b60015d"
    "Instance @RGUNICORN_INSTANCE@ was sent a signal that means nothing to it"
    "The record names the signal and its sender. It is ignored, and told once a minute at most. SIGXCPU is the kernel's \
    when a process has used the processor time of LimitCPU= (or ulimit -t): workers are replaced then, but the \
    arbiter, which all of them hang on, goes on until the hard limit."

    CONTROL_REFUSED "33ad55d94ef447719194b81b30e36962"
    "A process was not heard on the control socket"
    "Only root and the instance's own user may control it, whatever the socket's mode."

    CONTROL_UNAVAILABLE "23d8613eb3794e68b6a75f7923ff8b62"
    "Instance @RGUNICORN_INSTANCE@ has no control socket"
    "rgunicornctl cannot reach it; signals, systemctl and serving work as ever. The record names the places \
    that were tried. Under the shipped unit it is in RuntimeDirectory=."

    ORDER_IGNORED "ec8efc3b26c243ceaba5794b86756125"
    "An order to instance @RGUNICORN_INSTANCE@ was not carried out"
    "A signal or rgunicornctl asked for what is not possible at the moment. The record says why; nothing has \
    changed."

    LISTENING "c15f3fb3d9d74586b523f41468452fbc"
    "Instance @RGUNICORN_INSTANCE@ listens"
    "A listening socket was adopted from systemd or bound by the arbiter."

    LISTENER_CLOSED "a99f0a6551a34f0297d81d31881f10bd"
    "Instance @RGUNICORN_INSTANCE@ no longer listens on an address"
    "A reload has removed the address from the settings, or the instance has stopped."

    FD_REFUSED "022f8e060801449eb87c7e5164a26aba"
    "Instance @RGUNICORN_INSTANCE@ cannot use what systemd had kept for it"
    "The service's file descriptor store held something that this version does not understand: of another version, \
    of another program, or half of what belongs together. It was closed and removed. After an upgrade this is \
    expected once; connections that waited in it are closed, and clients open new ones."

    MOLD_DIED "234d07d44cc644f1b6db97b2b15a7630"
    "The mold of generation @RGUNICORN_GENERATION@ died"
    "The process that forks the workers has ended. Workers go on serving. Without preload_app a new mold is \
    started; with it, a worker that dies is not replaced by newer code: reload the instance."

    PRELOAD_WARNING "fd0566c4d7ec43caa1a578928c729153"
    "Preloading the application has left something that a fork copies badly"
    "The application started Python threads or opened sockets while it was imported in the mold. Threads do not \
    survive the fork, and connections would be shared by all workers. Open them in the workers, or switch \
    preload_app off. preload_strict makes this a refusal."

    WORKER_BOOTED "e241ae293de14c00901b4bb6cb41086e"
    "A worker was started"
    "The mold has forked a worker. It becomes ready when it has imported the application."

    WORKER_READY "037e5e1b5bd34bbbaed1c1599a33b6e4"
    "A worker is ready"
    "The worker has imported the application and can serve."

    WORKER_EXITED "7e82c00449ff41ad81b4aa39c68b55f2"
    "A worker has ended as it was told"
    "The worker was retired by a reload, a recycling or a stop; it has finished what it had begun. Nothing needs \
    to be done."

    WORKER_DIED "fe94eecf8c2d4f5e8021ddbe9246efc6"
    "A worker died"
    "The worker ended without having been told to: a signal, a crash of a native extension, os._exit, or the \
    kernel's out-of-memory killer; the record names the exit status or signal and, where known, the requests \
    that were lost. It is replaced, at once or, if it happens again and again, after growing pauses; then look at \
    the requests named, at `coredumpctl` and at memory."

    WORKER_KILLED "95ed4c734c334a1e83b3c10557f49653"
    "A worker was killed by the arbiter"
    "The worker did not end within its deadline (graceful_timeout when it was retired, timeout when it no longer \
    answered) and got SIGKILL. Its requests are lost. The record before this one says what it was doing."

    WORKER_RECYCLED "e8e3194cd581448bb0f6c548574b9cf8"
    "A worker asked to be replaced"
    "max_requests or another limit is reached. A new worker takes its slot before the old one leaves; no request \
    is lost."

    WORKER_STUCK "608491c0652240388a7cfe87d53f758e"
    "A worker no longer answers"
    "Neither a lane nor the standby of the worker has given a sign for longer than is allowed: the process is \
    stopped (SIGSTOP, a debugger), starved of processor time, or waits in the kernel. It is killed and replaced."

    ARBITER_LATE "00d8f86aba9646a995d0af786aff870f"
    "The arbiter did not run for a while"
    "The process or the whole machine was stopped, frozen, suspended or had no processor time. All deadlines \
    are moved, so nobody is judged by a time in which nobody could run. If nothing was paused look for a \
    lack of processor time: CPUQuota=, a busy host."

    FORK_FAILED "564195b2255e40ff9a96e74616dde23e"
    "A worker could not be forked"
    "The machine or the unit has no room for another process: TasksMax=, memory, ulimit -u. It is tried \
    again."

    WORKER_UNDEAD "de5db73d92d443cc81ecc5f50721cade"
    "A worker was killed and does not go away"
    "It waits in the kernel without interruption, for a network file system or a disk that does not answer. \
    It is no longer waited for and its slot is filled. Look at it with `ps -o pid,stat,wchan` and at the \
    kernel's log."

    WORKER_ODD "50631a9caab1431497ad1325dd081eb3"
    "A worker says what cannot be understood, or nothing any more"
    "Its channel to the arbiter has ended or carries nonsense while it lives. Usually the application closes \
    file descriptors that are not its own (os.closerange, a daemonizing library). The worker is replaced if \
    it cannot be spoken with."

    WORKER_CONTINUED "72eff4a9687e4d9e981caefd379583de"
    "A worker that was stopped goes on"
    "Somebody has sent SIGCONT. It gets its time anew and serves on."

    SCALED "9485c38f07ab4bc3aac4e200f7e646f7"
    "The number of workers has changed"
    "By TTIN or TTOU, by rgunicornctl scale, or by a reload."

    BOOT_FAULT "407fb235c77a4c658828a8f451612f09"
    "The application could not be imported"
    "The record has the reason and, where there is one, the Python traceback. At a reload the old generation goes \
    on serving. At a start the service fails and is tried again by systemd; clients wait in the socket. Repair \
    the application; `rgunicorn --check-config` shows the same error."

    BOOT_TIMEOUT "cf7d31d157b743719097acdb7fcfe2cd"
    "The application took too long to start"
    "A worker was not ready in the time that it has for booting. Look for a blocking call at import or in the \
    lifespan's startup: a database or an HTTP request without a timeout."

    RELOAD_BEGUN "81b4dbe8b32947d0b7818725c6405879"
    "A reload of instance @RGUNICORN_INSTANCE@ has begun"
    "The settings are read anew and a new generation is started beside the one that serves."

    RELOAD_DONE "8625e47af41542e296621bfbebf288e5"
    "Instance @RGUNICORN_INSTANCE@ was reloaded"
    "All workers of the new generation are ready and accept; the old generation finishes what it has begun and \
    leaves. No connection is lost."

    RELOAD_FAILED "41f47d604f5447479641a9aa0e09fdef"
    "The reload of instance @RGUNICORN_INSTANCE@ failed, the old generation serves on"
    "The record says what was wrong: a setting, an import, a check request. Nothing has changed for clients. \
    Repair it and reload again."

    RELOAD_ROLLS "0a377a3ec9b94769bc496c436edb8423"
    "Generation @RGUNICORN_GENERATION@ serves in one more place"
    "A rolling reload replaces one worker after the other, or takes the places of one that has failed back. Until its \
    end two versions of the code answer at once. Nothing needs to be done."

    RELOAD_UNDONE "97a6c721371445718e3616ffab0ad577"
    "A failed rolling reload of instance @RGUNICORN_INSTANCE@ is undone"
    "All workers are again of the generation that serves. The record of the failure says what was wrong: repair it \
    and reload again."

    RELOAD_NOT_UNDONE "f1b93a8bc56d4dd4aab6fab3edc4e34e"
    "A failed rolling reload of instance @RGUNICORN_INSTANCE@ is not undone"
    "Workers of two versions of the code go on serving, since the generation before cannot boot workers any more: \
    without preload_app they import what is on the disk now. It is tried again with growing delay; repair the \
    application and reload again."

    RELOAD_QUEUED "c81cbcd72657461c98fe7723ba42cac6"
    "Another reload of instance @RGUNICORN_INSTANCE@ follows the one that runs"
    "It was ordered while a generation boots. When that is done the settings are read anew; orders that come \
    until then are one. Nothing needs to be done."

    GENERATION_GONE "07f60e94705e4e46b62f02d9ad972627"
    "Generation @RGUNICORN_GENERATION@ is gone"
    "Its last worker has ended."

    ARBITER_REPLACING "2c329e8fa8cc40fbaf7f29478eb8f906"
    "The arbiter of instance @RGUNICORN_INSTANCE@ is about to run another binary"
    "SIGUSR2 or rgunicornctl upgrade: the installed program is asked first whether it can take over, and is then executed \
    in the same process. Workers serve meanwhile; if it cannot, nothing changes."

    ARBITER_REPLACED "059f3fbe136b4be185f19636ff51699b"
    "The arbiter of instance @RGUNICORN_INSTANCE@ runs a new binary"
    "SIGUSR2: it has re-executed itself with the same process id. Workers have served throughout."

    ARBITER_REPLACE_FAILED "ad3fe0cf536048c381165dd9f16d87ef"
    "The arbiter of instance @RGUNICORN_INSTANCE@ could not run the new binary"
    "It goes on with the one that it has. The record says why."

    ARBITER_GONE "860a8121496541309eeda5e1db26d9b1"
    "A worker has lost its arbiter"
    "The channel to the arbiter has ended: it was killed or has crashed. The worker finishes what it has begun \
    and leaves; systemd starts the service again."

    LOGS_REOPENED "b09fd6dbed474c7fa9dcbbba08918835"
    "The log files were opened anew"
    "SIGUSR1, as after a rotation."

    REQUEST_TIMEOUT "8dfc3eb3617e4d73a5aaf9109fac6a49"
    "A request was in the application for too long"
    "timeout has passed without progress. The client got a 504 if nothing had been sent. The record has the \
    request and the stack of the lane, which shows where it was waiting or working. The worker is replaced. If \
    such requests are expected raise timeout."

    REQUEST_CUT "fc115ed0ba324cc399bb262505c9e771"
    "A request was cut off"
    "Its worker had to leave, by a stop, a reload or a limit, and graceful_timeout has passed. The client \
    sees its connection end. Raise graceful_timeout if such requests are expected."

    REQUEST_REJECTED "fa5198ca8f5f4dd88b69983570796a4e"
    "A request was rejected"
    "The client sent what HTTP/1.1 or the instance's limits do not allow; the record names the rule. This is the \
    client's fault, or the proxy's. Several from one address may be a scan; if a legitimate client is hit look \
    at the limit_request settings."

    REQUEST_ABANDONED "76b13c605faf474e840145d4f8dc29a3"
    "A client left before its response was complete"
    "It closed the connection, or did not read for send_timeout. Usually harmless: a page that was left, a load \
    balancer's own timeout that is shorter than the application."

    APPLICATION_ERROR "e123e014653b47feb31eecfa746f960d"
    "The application raised an exception"
    "The client got a 500 if nothing had been sent. The record is the application's traceback."

    RESPONSE_FAULT "960af4b0dfa44bbf9f934fe328c3d35a"
    "The application's response breaks the protocol"
    "It declared another length than it sent, named an invalid header or status, or called start_response \
    wrongly. The connection is closed where the client could otherwise be misled. The record names the rule of \
    PEP 3333 or ASGI."

    QUEUE_TIMEOUT "42a8f0d60f4f4099b1d941ecba3e6fee"
    "A request has waited too long for a lane"
    "All lanes were busy for queue_timeout; the client got a 503. More workers or threads, or a faster \
    application, are needed."

    FAILURE "0e42ccf4a47b41a6b6835ef538569432"
    "The machine refused what should always work"
    "A call to the kernel failed: memory, a limit, or a fault. The record says which, and what was done about \
    it."

    OUT_OF_FDS "7e802ebbbcdb4e588bade62a5828cc53"
    "File descriptors are short"
    "A connection could not be accepted for want of one. Idle connections are closed in favour of new ones. \
    Raise LimitNOFILE= of the unit, or ulimit -n."

    SPOOL_FULL "9fa12b0a565f48f883f9f95f0705bb67"
    "Request bodies were refused for want of room"
    "All bodies on disk together reach spool_limit, or /var/tmp cannot be written to. The client got a 503 or \
    a 500. Raise spool_limit, lower limit_request_body, or free space; small bodies stay in memory \
    (request_buffer)."

    APPLICATION_OUTPUT "036c2e73657e41669dc4690944686ab0"
    "Something that the application printed"
    "One line of its standard output or error."

    ACCESS "4f51a67c54fd4793bc9d298bb9f332f2"
    "A request was served"
    "One record per request, with its fields."

    RECORDS_DROPPED "af6dffdbef8e467fb0af8e441cbb6831"
    "Records were dropped"
    "The journal, or whoever reads the log, did not take records as fast as they came. rgunicorn never lets a \
    request wait for its log; the record says how many are missing. Look at the disk's speed \
    and at `systemctl status systemd-journald`. What journald itself leaves out by its rate limit, it says itself."

    WATCHDOG_MISSED "2c2945f9192949e6b2b7d6e1e7304836"
    "Instance @RGUNICORN_INSTANCE@ is about to miss its watchdog"
    "Nobody serves and nobody is about to, or a request has outlived timeout and graceful_timeout together. The record \
    has the reason, and of each worker its requests and what its threads do. If that does not change systemd kills the \
    service when WatchdogSec= is over, and starts it again. Repair what the threads wait for."
}

/// The catalog's source, as journalctl --update-catalog reads it.
pub fn catalog() -> String {
    let mut text = String::new();
    for event in ALL {
        text.push_str(&format!(
            "-- {}\nSubject: {}\nDefined-By: rgunicorn\nSupport: https://github.com/rgunicorn/rgunicorn/issues\n\n",
            event.uuid, event.subject
        ));
        let mut width = 0;
        for word in event.explanation.split_whitespace() {
            if width > 0 && width + 1 + word.len() > 78 {
                text.push('\n');
                width = 0;
            } else if width > 0 {
                text.push(' ');
                width += 1;
            }
            text.push_str(word);
            width += word.len();
        }
        text.push_str("\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_event_has_an_id_of_its_own_and_says_something() {
        let ids: HashSet<_> = ALL.iter().map(|event| event.uuid).collect();
        assert_eq!(ids.len(), ALL.len());
        for event in ALL {
            assert_eq!(event.uuid.len(), 32, "{}", event.name);
            assert!(event.uuid.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
            assert!(!event.subject.is_empty() && event.explanation.ends_with('.'), "{}", event.name);
        }
    }

    /// All Rust sources under `folder` but this file.
    fn sources(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("log/src/event.rs") {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    /// An entry of the catalog that no record has would promise what never happens.
    #[test]
    fn every_event_is_that_of_a_record() {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let mut found = Vec::new();
        sources(&root.join("src"), &mut found);
        for each in std::fs::read_dir(root.join("crates")).unwrap() {
            let folder = each.unwrap().path().join("src");
            if folder.is_dir() {
                sources(&folder, &mut found);
            }
        }
        let named: HashSet<&str> = found
            .iter()
            .flat_map(|source| {
                source.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':')
            })
            .filter_map(|word| word.strip_prefix("event::").or_else(|| word.strip_prefix("id::")))
            .collect();
        let orphans: Vec<_> = ALL.iter().map(|event| event.name).filter(|name| !named.contains(name)).collect();
        assert!(orphans.is_empty(), "no record has the id of {orphans:?}");
    }

    #[test]
    fn the_catalog_has_an_entry_per_event_in_lines_of_at_most_78_columns() {
        let catalog = catalog();
        assert_eq!(catalog.matches("\nDefined-By: rgunicorn\n").count(), ALL.len());
        for paragraph_line in catalog.lines().filter(|line| !line.starts_with("Subject: ")) {
            assert!(paragraph_line.len() <= 78, "{paragraph_line}");
        }
    }

    #[test]
    fn the_shipped_catalog_is_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd/catalog/rgunicorn.catalog");
        if std::env::var_os("RGUNICORN_BLESS").is_some() {
            std::fs::write(path, catalog()).unwrap();
        }
        let shipped = std::fs::read_to_string(path).unwrap();
        assert!(shipped == catalog(), "make it anew: RGUNICORN_BLESS=1 cargo test -p rgunicorn-log catalog");
    }
}
