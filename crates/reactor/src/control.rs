//! What the arbiter orders: promote, retire, stop, reopen, ping; and what its end means.
//!
//! Any thread that turns the reactor may find a message; the lock on [`Control`] makes orders be obeyed one at a time and
//! in their order. Sending never waits: an arbiter that does not read is treated like one that will.

use crate::reactor::{Reactor, Service, lock};
use rgunicorn_log::event;
use rgunicorn_protocol::scoreboard::ServiceState;
use rgunicorn_protocol::{FromWorker, Received, ToWorker};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What obeying needs.
pub(crate) struct Control {
    pub(crate) graceful_timeout: Duration,
    pub(crate) on_reopen: Box<dyn Fn() + Send>,
}

impl Reactor {
    /// Says something to the arbiter.
    pub fn tell(&self, message: &FromWorker) {
        if let Err(error) = self.channel.send(message, &[]) {
            slog::debug!(self.log, "the arbiter could not be told"; "message" => ?message, "error" => %error);
        }
    }

    /// Reads and obeys everything that the arbiter has sent.
    pub(crate) fn obey(self: &Arc<Self>) {
        let control = lock(&self.control);
        loop {
            match self.channel.receive::<ToWorker>() {
                Ok(Received::Message(message, _fds)) => self.obey_one(&message, &control),
                Ok(Received::Unreadable(error)) => {
                    slog::error!(self.log, "a message of the arbiter cannot be read"; event::FAILURE, "error" => error);
                }
                Ok(Received::Empty) => return,
                Ok(Received::Ended) => {
                    self.forget_channel();
                    // One that was told to stop has no arbiter to miss.
                    if !self.retiring.load(Ordering::Relaxed) && !self.is_finished() {
                        slog::warn!(self.log, "the arbiter is gone; the worker finishes what it has begun and leaves";
                            event::ARBITER_GONE);
                        self.retire(control.graceful_timeout, false);
                    }
                    return;
                }
                Err(error) => {
                    slog::error!(self.log, "the channel to the arbiter failed"; event::ARBITER_GONE, "error" => %error);
                    self.forget_channel();
                    self.retire(control.graceful_timeout, false);
                    return;
                }
            }
        }
    }

    fn obey_one(self: &Arc<Self>, message: &ToWorker, control: &Control) {
        match message {
            ToWorker::Promote => {
                let mut service = lock(&self.service);
                if *service == Service::Booting {
                    *service = Service::Serving;
                    drop(service);
                    self.sheet.set_service(ServiceState::Serving);
                    self.open_listeners();
                }
            }
            ToWorker::Workers { count } => self.workers.store((*count as usize).max(1), Ordering::Relaxed),
            ToWorker::Retire { deadline_ms, successors, drain_listeners } => {
                self.successors.store(*successors, Ordering::SeqCst);
                self.retire(Duration::from_millis(*deadline_ms), *drain_listeners);
            }
            ToWorker::Drain { listeners } => self.drain_listeners(listeners),
            ToWorker::Stop => self.finish(),
            ToWorker::ReopenLogs => (control.on_reopen)(),
            ToWorker::Ping { id } => self.tell(&FromWorker::Pong { id: *id }),
            ToWorker::Configure(_) | ToWorker::Fork { .. } => {
                slog::error!(self.log, "the arbiter sent a worker what is meant for a mold"; event::FAILURE);
            }
        }
    }

    fn forget_channel(&self) {
        // A level-triggered end of file would be reported for ever.
        let _ = crate::sys::control(
            self.epoll_fd(),
            libc::EPOLL_CTL_DEL,
            std::os::fd::AsFd::as_fd(&self.channel),
            0,
            crate::token::Source::Channel,
        );
    }

    /// Stops accepting, finishes what was begun, then ends; at the deadline at the latest.
    pub fn retire(self: &Arc<Self>, within: Duration, drain_listeners: bool) {
        let was_serving = {
            let mut service = lock(&self.service);
            let was_serving = *service == Service::Serving;
            if *service == Service::Stopped {
                return;
            }
            *service = Service::Retiring { deadline: Instant::now() + within };
            was_serving
        };
        self.sheet.set_service(ServiceState::Retiring);
        if was_serving {
            self.give_up_listening(drain_listeners);
        }
        self.close_listeners();
        self.retiring.store(true, Ordering::SeqCst);
        if self.lanes.any_free() {
            self.listen_again();
        }
        self.tell(&FromWorker::Draining { running: u32::try_from(self.connections()).unwrap_or(u32::MAX) });
        self.review_all();
        self.finish_if_retired();
    }

    /// Ends the worker once the last connection has gone and the application has come back: what it does after its
    /// response (`close()` of the body) has the same time as the response itself. Requests that have timed out are not
    /// waited for.
    pub(crate) fn finish_if_retired(self: &Arc<Self>) {
        if self.retiring.load(Ordering::SeqCst) {
            if self.owes_nobody() {
                if !self.lanes.any_free() {
                    if self.last_wait() {
                        // Others may have lanes for them. If not, they are named at the deadline.
                        return;
                    }
                } else if self.take_last() {
                    self.kick_pollers();
                    return;
                }
            }
            let _none_arrives = lock(&self.arrival);
            if self.owes_nobody() {
                // A driver that has something to do before the end sees it in its next turn.
                if let Some(coroutines) = self.coroutines.as_ref().filter(|coroutines| coroutines.is_held()) {
                    coroutines.ring();
                    return;
                }
                self.finish();
            }
        }
    }

    /// Ends the worker: every lane leaves at its next look, every connection is closed with the process.
    pub fn finish(&self) {
        *lock(&self.service) = Service::Stopped;
        self.sheet.set_service(ServiceState::Stopped);
        self.stop_listening();
        self.finished.store(true, Ordering::SeqCst);
        self.lanes.finish();
        self.wake_standby();
        self.kick();
        if let Some(coroutines) = &self.coroutines {
            coroutines.ring();
        }
    }

    /// Until when a worker that retires may serve on.
    pub fn retirement(&self) -> Option<Instant> {
        match *lock(&self.service) {
            Service::Retiring { deadline } => Some(deadline),
            Service::Booting | Service::Serving | Service::Stopped => None,
        }
    }
}
