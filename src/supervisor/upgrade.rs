//! The upgrade: the arbiter's own program is replaced, in the same process, while its workers serve.
//!
//! Owns what is decided about it. The program that is to be executed is asked first whether it can take over
//! (`Action::CheckUpgrade`, a child that the arbiter does not wait for); only a yes leads to `Action::Upgrade`. The new
//! program finds this state again ([`State::resume`]) and reloads, so that new workers follow the new arbiter.
//!
//! Invariants: there is no upgrade while a reload runs, so the state that travels has no half of one; an order to stop
//! ends it; whatever the new program does before it is executed, the old one goes on.

use super::action::Action;
use super::decide::{Life, State};
use super::event::Order;
use super::record::{Record, seconds};
use rgunicorn_protocol::VERSION;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long the new program may take to say that it can take over.
const CHECK_TIME: Duration = Duration::from_secs(10);

/// How far an upgrade has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Upgrade {
    /// It waits for the first generation, or for the end of a reload.
    Wanted,
    /// The new program is asked whether it can take over.
    Checking {
        #[serde(with = "super::moment")]
        deadline: Instant,
    },
    /// It can; a reload that was ordered meanwhile ends first.
    Checked { version: String },
    /// It is about to be executed.
    Executing { version: String },
}

impl State {
    /// The instance goes on in another program, or in another run of the same: `from` is the version before. Of a
    /// program that could not be executed nothing is left.
    pub(crate) fn resume(&mut self, from: String, now: Instant) -> Vec<Action> {
        let mut actions = vec![Action::Record(Record::Upgraded { from })];
        self.upgrade = None;
        self.reload_wanted = false;
        // Workers of the program's own version follow.
        self.handle_order(Order::Reload, now, &mut actions);
        actions
    }

    /// The next program is about to be executed, unless an order to stop has come first.
    pub(super) fn executes(&self) -> bool {
        matches!(self.upgrade, Some(Upgrade::Executing { .. }))
    }

    pub(super) fn order_upgrade(&mut self, actions: &mut Vec<Action>) {
        if self.upgrade.is_some() {
            actions
                .push(Action::Record(Record::OrderIgnored { order: "The upgrade", because: "another one is running" }));
            return;
        }
        self.upgrade = Some(Upgrade::Wanted);
        if self.reload.is_some() || self.life == Life::Starting {
            actions.push(Action::Record(Record::UpgradeWaits));
        }
    }

    /// The new program has answered, with its version or with what is wrong; or it could not be executed after all.
    pub(super) fn handle_upgrade_checked(&mut self, answer: Result<String, String>, actions: &mut Vec<Action>) {
        match (&self.upgrade, answer) {
            (Some(Upgrade::Checking { .. }), Ok(version)) => self.upgrade = Some(Upgrade::Checked { version }),
            (Some(_), Err(reason)) => self.refuse_upgrade(reason, actions),
            // It has answered too late.
            (Some(Upgrade::Wanted | Upgrade::Checked { .. } | Upgrade::Executing { .. }), Ok(_)) | (None, _) => {}
        }
    }

    /// Goes on with an upgrade that can go on.
    pub(super) fn settle_upgrade(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match (&self.life, &self.upgrade) {
            (_, None) | (Life::Starting, _) => {}
            (Life::Stopping { .. } | Life::Over, Some(upgrade)) => {
                if let Upgrade::Checking { .. } = upgrade {
                    actions.push(Action::AbandonUpgrade);
                }
                self.upgrade = None;
            }
            (Life::Serving, Some(Upgrade::Checking { deadline })) if *deadline <= now => {
                actions.push(Action::AbandonUpgrade);
                let reason = format!("it did not say within {} whether it can take over", seconds(CHECK_TIME));
                self.refuse_upgrade(reason, actions);
            }
            (Life::Serving, Some(_)) if self.reload.is_some() => {}
            (Life::Serving, Some(Upgrade::Wanted)) => {
                self.upgrade = Some(Upgrade::Checking { deadline: now + CHECK_TIME });
                actions.push(Action::Record(Record::UpgradeBegins));
                actions.push(Action::CheckUpgrade);
            }
            (Life::Serving, Some(Upgrade::Checked { version })) => {
                let version = version.clone();
                actions.push(Action::Record(Record::UpgradeExecutes { version: version.clone() }));
                actions.push(Action::Upgrade);
                self.upgrade = Some(Upgrade::Executing { version });
            }
            (Life::Serving, Some(Upgrade::Checking { .. } | Upgrade::Executing { .. })) => {}
        }
    }

    /// When the new program must have answered.
    pub(super) fn upgrade_deadline(&self) -> Option<Instant> {
        match self.upgrade {
            Some(Upgrade::Checking { deadline }) => Some(deadline),
            Some(Upgrade::Wanted | Upgrade::Checked { .. } | Upgrade::Executing { .. }) | None => None,
        }
    }

    fn refuse_upgrade(&mut self, reason: String, actions: &mut Vec<Action>) {
        self.upgrade = None;
        actions.push(Action::Record(Record::UpgradeRefused { reason, version: VERSION }));
        if self.life == Life::Serving && std::mem::take(&mut self.reload_wanted) {
            self.order_reload(actions);
        }
    }
}
