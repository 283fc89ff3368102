//! What systemd is told: READY, STATUS, RELOADING, STOPPING, EXTEND_TIMEOUT_USEC, EXIT_STATUS (sd_notify(3)).
//!
//! Owns the datagrams and remembers the last STATUS, so that nothing is sent twice. Knows nothing of why. Invariant: a
//! failure to notify is counted as nothing, the service goes on; the environment is left as it is, since sd-notify
//! reads it at each call.

use sd_notify::NotifyState;
use std::time::Duration;

/// The connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    status: String,
}

impl Notifier {
    /// The instance serves, or has ended a reload well or badly; `status` goes out in the same datagram.
    pub(crate) fn ready(&mut self, status: String) {
        send(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// A reload has begun. systemd wants the time in the same datagram, else it waits for ever.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// The instance stops.
    pub(crate) fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }

    /// Starting, reloading or stopping goes on for at most `time` from now.
    pub(crate) fn extend(&self, time: Duration) {
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        send(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
    }

    /// The line that `systemctl status` shows; sent if it has changed.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.status {
            send(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The loop turned.
    pub(crate) fn watchdog(&self) {
        send(&[NotifyState::Watchdog]);
    }

    /// How the process is about to end.
    pub(crate) fn exit_status(&self, code: u8) {
        send(&[NotifyState::Custom(&format!("EXIT_STATUS={code}"))]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    // A service manager that does not listen must not end the service.
    let _ = sd_notify::notify(states);
}
