//! What an operator orders over the control socket, and is told.
//!
//! Owns the words of the answers, and the memory of what has happened ([`History`]). Reads the state, the books and the
//! scoreboard and changes none of them: what an operator wants done becomes an event like a signal does. Invariant: every
//! order gets exactly one answer that is not progress.

use super::decide::{Life, State};
use super::event::{Event, Findings, Order, Serial};
use super::generation::Generation;
use super::idle::Activity;
use super::perform::Performer;
use super::process::{Phase, Process, Seat};
use super::record::{Record, counted};
use super::token::Token;
use crate::control::ClientId;
use crate::settings::{WorkerClass, explain};
use rgunicorn_log::event;
use rgunicorn_protocol::control::{self as wire, Answer, Happening, Quantiles, Reload, Speed, Status, Totals};
use rgunicorn_protocol::scoreboard::{Counter, LaneState, Sheet, Tally, Times, monotonic_us};
use serde::{Deserialize, Serialize};
use slog::{Drain, Level, Logger, Never, OwnedKVList, error, info, o};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most workers that may be ordered by hand: enough for any machine, small enough to catch a slipped finger.
const MOST_WORKERS: usize = 4096;

/// systemd starts its helper at once after the signal. One that comes later than this means another reload.
const JOIN_TIME: Duration = Duration::from_secs(10);

/// How long READY waits for helpers that know the outcome, and how often it looks whether they are gone.
const HELPER_TIME: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// READY=1 that waits until systemd has seen the end of the helpers that it started (`rgunicornctl reload --join`).
/// With Type=notify-reload a READY=1 ends the reload well whatever the helper finds, and systemd reads it before it
/// reaps: so a helper that fails must be reaped first.
#[derive(Debug, Default)]
pub(super) struct LateReady {
    helpers: Vec<i32>,
    status: Option<String>,
    until: Option<Instant>,
    look_at: Option<Instant>,
}

/// Hears what records say.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<(Level, String)>>);

impl Drain for Ear {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &slog::Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((record.level(), record.msg().to_string()));
        Ok(())
    }
}

/// What has happened since the arbiter started, as its records tell it.
pub(super) struct History {
    ear: Arc<Ear>,
    listener: Logger,
    /// What is remembered, by the next program of this process too.
    pub(super) past: Past,
    /// What those who wait are to be told.
    progress: Vec<Answer>,
    /// An upgrade was refused, and those who wait for it have not been told.
    refused: bool,
    /// The reload that has failed and is being rolled back, and why: it is over when that is done.
    failing: Option<(u32, String)>,
    /// The number of the reload that systemd has ordered by signal, and when, until a client has asked for its outcome.
    signalled: Option<(u64, Instant)>,
}

/// See [`History`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Past {
    started: f64,
    /// The same on the board's clock.
    started_us: u64,
    serving_since: f64,
    deaths: u64,
    recycled: u64,
    latest_death: Option<Happening>,
    /// Reloads that have begun and that have ended, one at a time.
    begun: u64,
    ended: u64,
    latest_reload: Option<Reload>,
    /// Clients that wait for the end of a reload, each with its number.
    waiting: Vec<(ClientId, u64)>,
    /// Clients that wait for an upgrade.
    upgrading: Vec<ClientId>,
    /// Those of `waiting` whose upgrade has come as far as the reload that ends it.
    #[serde(default)]
    upgraded: Vec<ClientId>,
}

impl Default for History {
    fn default() -> History {
        let ear = Arc::new(Ear::default());
        History {
            listener: Logger::root(Arc::clone(&ear), o!()),
            ear,
            past: Past {
                started: unix_time(),
                started_us: monotonic_us(),
                serving_since: 0.0,
                deaths: 0,
                recycled: 0,
                latest_death: None,
                begun: 0,
                ended: 0,
                latest_reload: None,
                waiting: Vec::new(),
                upgrading: Vec::new(),
                upgraded: Vec::new(),
            },
            failing: None,
            signalled: None,
            progress: Vec::new(),
            refused: false,
        }
    }
}

impl History {
    /// That of the program before this one. Whoever has waited for the upgrade waits for the reload that ends it.
    pub(super) fn of(mut past: Past) -> History {
        let wanted = past.begun + 1;
        past.upgraded.clone_from(&past.upgrading);
        past.waiting.extend(past.upgrading.drain(..).map(|client| (client, wanted)));
        History { past, ..History::default() }
    }

    /// A record was written with this evidence.
    pub(super) fn note(&mut self, record: &Record, evidence: &Findings) {
        record.write(&self.listener, evidence);
        let heard = std::mem::take(&mut *self.ear.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (level, text) in heard {
            self.understand(record, &text);
            let matters = level.is_at_least(Level::Info) || matches!(record, Record::WorkerReady { .. });
            if matters && !(self.past.waiting.is_empty() && self.past.upgrading.is_empty()) {
                self.progress.push(Answer::Progress { level: level.as_str().to_ascii_lowercase(), text });
            }
        }
    }

    /// Something was recorded that is no [`Record`]: clients that wait for a reload are told.
    pub(super) fn hear(&mut self, level: Level, text: String) {
        if !self.past.waiting.is_empty() {
            self.progress.push(Answer::Progress { level: level.as_str().to_ascii_lowercase(), text });
        }
    }

    fn understand(&mut self, record: &Record, text: &str) {
        if record.is_a_death() {
            self.past.deaths += 1;
            self.past.latest_death = Some(Happening { at: unix_time(), text: text.to_owned() });
        }
        if let Record::Recycles { .. } = record {
            self.past.recycled += 1;
        }
        if let Record::ReloadBegins { .. } = record {
            self.past.begun += 1;
        }
        if let Record::Serves { generation, .. } = record {
            self.past.serving_since = unix_time();
            if *generation > 1 {
                self.end_reload(*generation, None);
            }
        }
        if let Record::UpgradeRefused { .. } = record {
            self.refused = true;
        }
        if let Record::ReloadNotPrepared { generation, .. } = record {
            self.end_reload(*generation, Some(text.to_owned()));
        }
        if let Record::ReloadFailed { tags, back, .. } = record {
            if *back == 0 {
                self.end_reload(tags.generation, Some(text.to_owned()));
            } else {
                self.failing = Some((tags.generation, text.to_owned()));
            }
        }
        if let Record::RolledBack { .. } | Record::NotRolledBack { .. } = record
            && let Some((generation, failure)) = self.failing.take()
        {
            self.end_reload(generation, Some(failure));
        }
    }

    /// systemd has ordered a reload by signal; it has not begun yet, and is the next one that will.
    pub(super) fn note_signal(&mut self, now: Instant) {
        self.signalled = Some((self.past.begun + 1, now));
    }

    /// The number of the reload that systemd has ordered just now, for the one client that it starts to ask for it.
    fn join(&mut self, now: Instant) -> Option<u64> {
        let (number, at) = self.signalled.take()?;
        (now.saturating_duration_since(at) < JOIN_TIME).then_some(number)
    }

    /// Whether the reload that systemd has ordered failed before its helper could ask for it. There may be no helper.
    fn expects_a_helper(&self, now: Instant) -> bool {
        let failed = self.past.latest_reload.as_ref().is_some_and(|latest| latest.failure.is_some());
        let signalled = self
            .signalled
            .is_some_and(|(number, at)| number == self.past.ended && now.saturating_duration_since(at) < JOIN_TIME);
        failed && signalled
    }

    fn end_reload(&mut self, generation: u32, failure: Option<String>) {
        self.past.ended = self.past.begun;
        self.past.latest_reload = Some(Reload { at: unix_time(), generation, failure });
    }
}

impl Performer<'_> {
    /// Something happened on the control socket.
    pub(super) fn handle_control(&mut self, id: ClientId, state: &State) {
        let orders = self.control.handle_ready(id, &self.epoll, control_data, &self.logger);
        self.obey(orders, state);
    }

    fn obey(&mut self, mut orders: Vec<(ClientId, wire::Order)>, state: &State) {
        while let Some((id, order)) = orders.pop() {
            if let Some(answer) = self.answer_to(id, &order, state) {
                self.control.answer(id, &answer, &self.epoll, control_data);
                orders.extend(self.control.poll_orders(id, &self.epoll, control_data));
            }
        }
    }

    /// Tells those who wait for a reload how it goes. To be called once all events are dealt with.
    pub(super) fn report_progress(&mut self, state: &State) {
        for answer in std::mem::take(&mut self.history.progress) {
            let past = &self.history.past;
            for id in past.waiting.iter().map(|(id, _)| id).chain(&past.upgrading) {
                self.control.answer(*id, &answer, &self.epoll, control_data);
            }
        }
        let over = match &state.life {
            Life::Starting | Life::Serving => false,
            Life::Stopping { .. } | Life::Over => true,
        };
        if std::mem::take(&mut self.history.refused) || over {
            let text = if over { "the instance stops" } else { "the upgrade was refused, nothing has changed" };
            for id in std::mem::take(&mut self.history.past.upgrading) {
                self.answer_late(id, &Answer::Failed { text: text.to_owned() }, state);
            }
        }
        let ended = self.history.past.ended;
        let (ready, waiting) = std::mem::take(&mut self.history.past.waiting)
            .into_iter()
            .partition(|(_, wanted)| over || *wanted <= ended);
        self.history.past.waiting = waiting;
        let ready: Vec<(ClientId, u64)> = ready;
        for (id, wanted) in ready {
            let upgraded = self.history.past.upgraded.contains(&id);
            self.history.past.upgraded.retain(|other| *other != id);
            let answer = self.end_of_reload(wanted <= ended, upgraded, state);
            self.answer_late(id, &answer, state);
        }
    }

    /// Opens the log files anew. The workers have the same ones, so what the arbiter finds is what they find.
    pub(super) fn reopen_logs(&mut self, state: &State) {
        let answer = match self.log.reopen() {
            Ok(()) => {
                info!(self.logger, "The log files were opened anew"; event::LOGS_REOPENED);
                Answer::Done { text: "the log files were opened anew".to_owned() }
            }
            Err(error) => {
                let text = format!("The log files cannot be opened anew, and the old ones go on: {error}");
                error!(self.logger, "{}", text; event::FAILURE);
                Answer::Failed { text }
            }
        };
        for id in std::mem::take(&mut self.reopening) {
            self.answer_late(id, &answer, state);
        }
    }

    fn answer_late(&mut self, id: ClientId, answer: &Answer, state: &State) {
        self.control.answer(id, answer, &self.epoll, control_data);
        let orders = self.control.poll_orders(id, &self.epoll, control_data);
        self.obey(orders, state);
    }

    fn end_of_reload(&self, ended: bool, upgraded: bool, state: &State) -> Answer {
        let serving = state.serving().map_or(0, |generation| generation.number);
        match self.history.past.latest_reload.as_ref().filter(|_| ended) {
            None => Answer::Failed { text: "the instance stops".into() },
            Some(Reload { failure: None, generation, .. }) => {
                Answer::Done { text: format!("generation {generation} serves") }
            }
            Some(Reload { failure: Some(_), .. }) if upgraded => Answer::Failed {
                text: format!(
                    "rgunicorn {} has taken over, but the reload that replaces the workers has failed: generation \
                     {serving} goes on",
                    rgunicorn_protocol::VERSION
                ),
            },
            Some(Reload { failure: Some(_), .. }) => {
                Answer::Failed { text: format!("the reload has failed, generation {serving} goes on") }
            }
        }
    }

    /// The answer to an order. `None`: it comes later.
    fn answer_to(&mut self, id: ClientId, order: &wire::Order, state: &State) -> Option<Answer> {
        let stops = matches!(state.life, Life::Stopping { .. } | Life::Over);
        let done = |text: String| Some(Answer::Done { text });
        let failed = |text: &str| Some(Answer::Failed { text: text.to_owned() });
        match order {
            wire::Order::Status => Some(Answer::Status(Box::new(self.status(state)))),
            wire::Order::Workers => Some(Answer::Workers { workers: self.workers(state) }),
            wire::Order::Requests => Some(Answer::Requests { requests: self.requests(state) }),
            wire::Order::Settings => Some(Answer::Settings { text: self.settings(state) }),
            wire::Order::Stop { quick } => {
                self.events.push_back(Event::Order(if *quick { Order::StopNow } else { Order::Stop }));
                done(if stops { "stopping faster".into() } else { "stopping".into() })
            }
            wire::Order::Reopen => {
                self.reopening.push(id);
                self.events.push_back(Event::Order(Order::ReopenLogs));
                None
            }
            wire::Order::Scale { .. }
            | wire::Order::ScaleBy { .. }
            | wire::Order::Retire { .. }
            | wire::Order::Reload { .. }
            | wire::Order::Upgrade
                if stops =>
            {
                failed("the instance stops")
            }
            wire::Order::Scale { workers } => self.scale(Order::Scale(*workers), i64::from(*workers), state),
            wire::Order::ScaleBy { difference } => {
                let wanted = i64::from(self.ordered(state)).saturating_add(i64::from(*difference));
                self.scale(Order::ScaleBy(*difference), wanted, state)
            }
            wire::Order::Retire { slot } => {
                let serves = state.generations.iter().any(|generation| generation.serves_at(*slot));
                if !serves {
                    return failed(&format!("no worker serves in slot {slot}"));
                }
                self.events.push_back(Event::Order(Order::Replace(*slot)));
                done(format!("the worker of slot {slot} leaves as soon as another one is ready in its place"))
            }
            wire::Order::Reload { join } => {
                let joined = if *join { self.history.join(Instant::now()) } else { None };
                if let Some(number) = joined {
                    self.late_ready.helpers.extend(self.control.pid_of(id));
                    if self.late_ready.status.is_some() {
                        let now = Instant::now();
                        (self.late_ready.until, self.late_ready.look_at) = (Some(now + HELPER_TIME), Some(now));
                    }
                    self.history.past.waiting.push((id, number));
                    let failure = self.history.past.latest_reload.as_ref().and_then(|latest| latest.failure.clone());
                    if let Some(text) = failure.filter(|_| number <= self.history.past.ended) {
                        self.history.progress.push(Answer::Progress { level: "error".to_owned(), text });
                    }
                    return None;
                }
                // One that runs already may have read the settings before they were changed: the next one counts.
                self.history.past.waiting.push((id, self.history.past.begun + 1));
                self.events.push_back(Event::Order(Order::Reload));
                None
            }
            wire::Order::Upgrade => {
                self.history.past.upgrading.push(id);
                self.events.push_back(Event::Order(Order::Upgrade));
                None
            }
        }
    }

    /// A reload is over, or the first generation serves.
    pub(super) fn say_ready(&mut self, status: String) {
        let now = Instant::now();
        let expected = self.late_ready.helpers.is_empty() && self.history.expects_a_helper(now);
        if self.late_ready.helpers.is_empty() && !expected {
            self.notifier.ready(status);
            return;
        }
        let until = now + HELPER_TIME;
        let look_at = if expected { until } else { now };
        self.late_ready.status = Some(status);
        (self.late_ready.until, self.late_ready.look_at) = (Some(until), Some(look_at));
    }

    /// Says READY=1 now, if it still waits.
    pub(super) fn say_late_ready(&mut self) {
        let late = std::mem::take(&mut self.late_ready);
        match late.status {
            Some(status) => self.notifier.ready(status),
            // The helpers wait for a reload that is not over.
            None => self.late_ready.helpers = late.helpers,
        }
    }

    /// Says READY=1 once no helper is left.
    pub(super) fn poll_ready(&mut self, now: Instant) {
        let late = &mut self.late_ready;
        let Some(until) = late.until.filter(|_| late.look_at.is_some_and(|at| at <= now)) else { return };
        // One that has ended and is not reaped can still be signalled.
        late.helpers.retain(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), None).is_ok());
        if late.helpers.is_empty() || until <= now {
            self.say_late_ready();
        } else {
            late.look_at = Some(now + LOOK_AGAIN);
        }
    }

    /// When [`Performer::poll_ready`] has something to do.
    pub(super) fn ready_deadline(&self) -> Option<Instant> {
        self.late_ready.look_at
    }

    /// What the scoreboard shows of use since the last look.
    pub(super) fn look_for_activity(&self, state: &State) -> Activity {
        let Some(board) = &self.scoreboard else { return Activity { open: 1, marks: 0 } };
        let marks = |tally: &Tally| {
            [tally.get(Counter::Accepted), tally.get(Counter::TakenOver), tally.requests()].iter().sum::<u64>()
        };
        let mut seen = Activity { open: u64::from(self.handoff_is_used()), marks: marks(&board.gone()) };
        for process in state.generations.iter().flat_map(|generation| generation.processes.values()) {
            let Some(sheet) = self.sheet(process.serial) else { continue };
            let tally = sheet.tally();
            seen.marks = seen.marks.wrapping_add(marks(&tally));
            seen.open += tally.connections() + sheet.busy() as u64;
        }
        seen
    }

    /// How many workers there are once the orders that were taken before are obeyed.
    fn ordered(&self, state: &State) -> u32 {
        let size = newest(state).map_or(0, |generation| generation.size());
        self.events.iter().fold(size, |have, event| match event {
            Event::Order(Order::Scale(workers)) => *workers,
            // The last one stays.
            Event::Order(Order::ScaleBy(difference)) => {
                Some(have.saturating_add_signed(*difference)).filter(|wanted| *wanted > 0).unwrap_or(have)
            }
            _ => have,
        })
    }

    fn scale(&mut self, order: Order, wanted: i64, state: &State) -> Option<Answer> {
        let have = self.ordered(state);
        let answer = match usize::try_from(wanted).ok().filter(|wanted| (1..=MOST_WORKERS).contains(wanted)) {
            None => Answer::Failed { text: format!("{wanted} workers cannot be had: from 1 to {MOST_WORKERS}") },
            Some(_) if have == 0 => Answer::Failed { text: "no generation is there yet".into() },
            Some(wanted) => {
                self.events.push_back(Event::Order(order));
                Answer::Done { text: format!("from now on {}, {have} before", counted(wanted, "worker")) }
            }
        };
        Some(answer)
    }

    fn settings(&self, state: &State) -> String {
        let prepared = state.serving().and_then(|generation| self.generations.get(&generation.number));
        prepared.map(|prepared| explain::listing(&prepared.settings)).unwrap_or_default()
    }

    pub(super) fn sheet(&self, serial: Serial) -> Option<&Sheet> {
        self.peers.get(&serial).and_then(|peer| peer.sheet.as_ref())
    }

    fn status(&self, state: &State) -> Status {
        let history = &self.history.past;
        let now = monotonic_us();
        let mut tally = self.scoreboard.as_ref().map(|board| board.gone()).unwrap_or_default();
        let mut status = Status {
            version: rgunicorn_protocol::VERSION.to_owned(),
            pid: std::process::id().cast_signed(),
            started: history.started,
            life: match &state.life {
                Life::Starting => "starting",
                Life::Serving => "serving",
                Life::Stopping { .. } | Life::Over => "stopping",
            }
            .to_owned(),
            summary: state.status(),
            spooled: self.scoreboard.as_ref().map_or(0, |board| board.spooled()),
            deaths: history.deaths,
            recycled: history.recycled,
            latest_death: history.latest_death.clone(),
            reloading: state.reload.is_some() && state.life == Life::Serving,
            latest_reload: history.latest_reload.clone(),
            ..Status::default()
        };
        let mut pool = None;
        for generation in &state.generations {
            let counts = generation.counts();
            status.workers_serving += counts.serving as u32;
            status.workers_booting += (counts.booting + counts.ready) as u32;
            status.workers_leaving += counts.leaving as u32;
            for process in generation.processes.values() {
                match process.seat {
                    Seat::Mold => status.molds.extend(process.pid),
                    Seat::Slot(_) => status.workers.extend(process.pid),
                }
                let Some(sheet) = self.sheet(process.serial) else { continue };
                let own = sheet.tally();
                status.connections += own.connections();
                tally.add(&own, now);
                if matches!(process.phase, Phase::Serving { .. }) {
                    let busy = sheet.busy() as u32;
                    status.lanes += sheet.lanes_in_use();
                    pool = pool.or_else(|| sheet.pool());
                    status.lanes_busy += busy;
                    status.workers_busy += u32::from(busy > 0);
                }
            }
        }
        if let Some(newest) = newest(state) {
            status.workers_wanted = newest.slots.len() as u32;
        }
        if let Some(generation) = state.serving() {
            status.generation = generation.number;
            status.generation_since = history.serving_since;
            status.interpreter.clone_from(&generation.interpreter);
        }
        let shown = state
            .serving()
            .or(state.incoming())
            .or(state.generations.last())
            .and_then(|shown| self.generations.get(&shown.number));
        if let Some(prepared) = shown {
            status.instance.clone_from(&prepared.settings.instance);
            status.app.clone_from(&prepared.settings.app);
            status.worker_class = match (prepared.settings.worker_class, pool) {
                (WorkerClass::Auto, Some(pool)) => pool.name().to_owned(),
                (class, _) => class.name().to_owned(),
            };
            status.listeners = prepared.listeners.iter().map(ToString::to_string).collect();
        }
        let age = now.saturating_sub(history.started_us);
        status.totals = totals(&tally);
        status.recent = speed(&tally.recent(now), Tally::window(now).min(age));
        // With systemd's fd store the figures are older than the arbiter.
        let counted_since = self.scoreboard.as_ref().map_or(history.started_us, |board| board.began());
        status.overall = speed(&tally.times(), now.saturating_sub(counted_since));
        status
    }

    fn workers(&self, state: &State) -> Vec<wire::Worker> {
        let (now, now_us) = (Instant::now(), monotonic_us());
        let age = now_us.saturating_sub(self.history.past.started_us);
        let mut workers = Vec::new();
        for generation in &state.generations {
            for process in generation.processes.values() {
                let Seat::Slot(slot) = process.seat else { continue };
                let (name, since) = phase(process);
                let recycle = generation
                    .slots
                    .iter()
                    .find(|slot| slot.incumbent == Some(process.serial))
                    .and_then(|slot| slot.recycle.clone());
                let mut worker = wire::Worker {
                    slot,
                    generation: generation.number,
                    pid: process.pid.unwrap_or(0),
                    state: name.to_owned(),
                    seconds: since.map(|since| now.saturating_duration_since(since).as_secs_f64()),
                    recycle,
                    ..wire::Worker::default()
                };
                if let Some(sheet) = self.sheet(process.serial) {
                    let tally = sheet.tally();
                    worker.lanes = sheet.lanes_in_use();
                    worker.busy = sheet.busy() as u32;
                    worker.connections = tally.connections();
                    worker.spooled = sheet.spooled();
                    worker.totals = totals(&tally);
                    worker.recent = speed(&tally.recent(now_us), Tally::window(now_us).min(age));
                }
                workers.push(worker);
            }
        }
        workers.sort_by_key(|worker| (worker.slot, worker.generation));
        workers
    }

    fn requests(&self, state: &State) -> Vec<wire::Request> {
        let now = monotonic_us();
        let seconds = |since: u64| now.saturating_sub(since) as f64 / 1e6;
        let mut requests = Vec::new();
        for generation in &state.generations {
            for process in generation.processes.values() {
                let (Seat::Slot(slot), Some(sheet)) = (process.seat, self.sheet(process.serial)) else { continue };
                for (lane, record) in (1..).zip(sheet.lanes()) {
                    let Some(running) = record.look() else { continue };
                    requests.push(wire::Request {
                        slot,
                        generation: generation.number,
                        pid: process.pid.unwrap_or(0),
                        lane,
                        thread: running.glance.thread,
                        state: match running.glance.state {
                            LaneState::Application => "application",
                            LaneState::Client => "client",
                        }
                        .to_owned(),
                        seconds: seconds(running.glance.since),
                        quiet: seconds(running.glance.progress),
                        method: running.method,
                        path: running.path,
                        truncated: running.truncated,
                        id: running.id,
                    });
                }
            }
        }
        requests.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        requests
    }
}

fn control_data(id: ClientId) -> u64 {
    Token::Control(id).to_u64()
}

fn newest(state: &State) -> Option<&Generation> {
    state.incoming().or(state.serving())
}

/// What a worker is doing, in the operator's words, and since when.
fn phase(process: &Process) -> (&'static str, Option<Instant>) {
    match process.phase {
        Phase::Booting { since, .. } => ("booting", Some(since)),
        Phase::Ready => ("ready", None),
        Phase::Serving { since } => ("serving", Some(since)),
        Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } => ("leaving", None),
        Phase::Killed { .. } => ("killed", None),
    }
}

fn totals(tally: &Tally) -> Totals {
    Totals {
        requests: tally.requests(),
        responses_1xx: tally.get(Counter::Responses1xx),
        responses_2xx: tally.get(Counter::Responses2xx),
        responses_3xx: tally.get(Counter::Responses3xx),
        responses_4xx: tally.get(Counter::Responses4xx),
        responses_5xx: tally.get(Counter::Responses5xx),
        unanswered: tally.get(Counter::Unanswered),
        body_bytes: tally.get(Counter::BodyBytes),
        accepted: tally.get(Counter::Accepted),
        handed_over: tally.get(Counter::HandedOver),
        rejected: tally.get(Counter::Rejected),
        queue_timeouts: tally.get(Counter::QueueTimeouts),
        timeouts: tally.get(Counter::Timeouts),
        send_timeouts: tally.get(Counter::SendTimeouts),
        spool_refusals: tally.get(Counter::SpoolRefusals),
    }
}

fn speed(times: &Times, span_us: u64) -> Speed {
    let span = Duration::from_micros(span_us).as_secs_f64();
    let requests = times.latency.count();
    let quantiles = |histogram: &rgunicorn_protocol::scoreboard::Histogram| {
        let at = |share| histogram.quantile(share).map(|us| us as f64 / 1e6);
        Some(Quantiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, p999: at(0.999)? })
    };
    Speed {
        seconds: span,
        requests,
        rate: if span > 0.0 { requests as f64 / span } else { 0.0 },
        latency: quantiles(&times.latency),
        queue: quantiles(&times.queue),
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::record::{Fault, Tags};

    const TAGS: Tags = Tags { generation: 2, slot: Some(1), pid: Some(7) };

    fn failed() -> Record {
        let fault = Fault { kind: None, message: "no".into(), traceback: Some("Traceback".into()) };
        Record::ReloadFailed { tags: TAGS, serving: 1, fault, back: 0 }
    }

    #[test]
    fn a_reload_is_counted_from_its_beginning_to_its_end() {
        let mut history = History::default();
        history.note(&Record::ReloadBegins { generation: 2, after_mold_died: false }, &Findings::default());
        assert_eq!((history.past.begun, history.past.ended), (1, 0));
        history.note(&failed(), &Findings::default());
        assert_eq!((history.past.begun, history.past.ended), (1, 1));
        assert!(history.past.latest_reload.unwrap().failure.unwrap().ends_with("no\nTraceback"));
    }

    #[test]
    fn who_waits_for_a_reload_hears_every_record_until_then() {
        let mut history = History::default();
        history.note(&Record::ReloadBegins { generation: 2, after_mold_died: false }, &Findings::default());
        assert!(history.progress.is_empty());
        history.past.waiting.push((1, 2));
        history.note(&failed(), &Findings::default());
        let [Answer::Progress { level, text }] = &history.progress[..] else { panic!("{:?}", history.progress) };
        assert!(level == "error" && text.contains("generation 1 goes on"), "{level} {text}");
    }

    #[test]
    fn the_reload_that_systemd_has_signalled_is_joined_once_whether_it_runs_or_has_failed_already() {
        let now = Instant::now();
        let mut history = History::default();
        assert_eq!(history.join(now), None, "nobody has signalled");
        history.note_signal(now);
        assert_eq!(history.join(now), Some(1), "before it has begun");
        assert_eq!(history.join(now), None);

        history.note_signal(now);
        history.note(&Record::ReloadBegins { generation: 2, after_mold_died: false }, &Findings::default());
        assert!(!history.expects_a_helper(now));
        history.note(&failed(), &Findings::default());
        assert!(history.expects_a_helper(now));
        assert_eq!(history.join(now), Some(1), "after it has ended");

        history.note_signal(now);
        assert_eq!(history.join(now + JOIN_TIME), None, "a signal of long ago means another reload");
    }

    #[test]
    fn the_first_generation_is_no_reload() {
        let mut history = History::default();
        let after = Duration::ZERO;
        history.note(
            &Record::Serves { generation: 1, workers: 1, interpreter: String::new(), after },
            &Findings::default(),
        );
        assert!(history.past.serving_since > 0.0);
        assert_eq!(history.past.latest_reload, None);
    }
}
