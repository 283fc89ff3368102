//! `rgunicornctl`: the operator's client of a running instance.
//!
//! An exit-code adapter around [`run`]. Owns stdout, stderr and one connection to the control socket. Knows no worker and
//! no setting: everything that it shows was told by the arbiter, but for the memory of processes, which it reads itself.

mod client;
mod memory;
mod show;
mod words;

use client::{Client, Failure, NO_INSTANCE};
use rgunicorn_protocol::control::{Answer, Order};
use std::io::Write;
use std::process::ExitCode;
use words::{Command, Words};

/// The order was not carried out.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Result<Vec<String>, _> = std::env::args_os().skip(1).map(|word| word.into_string()).collect();
    let arguments = arguments.map_err(|word| format!("{word:?} is no UTF-8"));
    let words = match arguments.and_then(|arguments| Words::parse(&arguments)) {
        Ok(words) => words,
        Err(message) => {
            complain(&format!("{message}; rgunicornctl --help lists the commands"));
            return ExitCode::from(USAGE);
        }
    };
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.message);
            ExitCode::from(failure.exit)
        }
    }
}

fn run(words: &Words) -> Result<(), Failure> {
    let order = match &words.command {
        Command::Help => return say(words::HELP),
        Command::Version => return say(&format!("rgunicornctl {}\n", rgunicorn_protocol::VERSION)),
        Command::Order(order) => order.clone(),
        Command::Kill(pid) => Order::Retire { slot: slot_of(words, *pid)? },
    };
    let mut client = Client::connect(words)?;
    let only_asks = matches!(order, Order::Status | Order::Workers | Order::Requests | Order::Settings);
    if !only_asks {
        // One that does not answer would obey at some later time, when nobody expects it.
        client.send(&Order::Requests, false)?;
        if let Answer::Failed { text } = client.receive()? {
            return Err(Failure { exit: FAILED, message: text });
        }
    }
    let patient = matches!(order, Order::Reload { .. } | Order::Upgrade | Order::Stop { .. });
    client.send(&order, patient)?;
    // What cannot be printed changes nothing in what was ordered, which goes on and whose outcome is the exit status.
    let mut printed = Ok(());
    loop {
        match client.receive()? {
            Answer::Progress { level, text } => {
                let line = if words.json { json(&Answer::Progress { level, text })? } else { format!("{text}\n") };
                printed = printed.and(say(&line));
            }
            Answer::Failed { text } => return Err(Failure { exit: FAILED, message: text }),
            answer => {
                printed = printed.and(show(words, &answer));
                break;
            }
        }
    }
    if let Order::Stop { .. } = order {
        client.wait_for_end()?;
        if !words.json {
            printed = printed.and(say("stopped\n"));
        }
    }
    match printed {
        Err(failure) if !only_asks => {
            complain(&format!("it is done, but {}", failure.message));
            Ok(())
        }
        printed => printed,
    }
}

fn show(words: &Words, answer: &Answer) -> Result<(), Failure> {
    let memory = match answer {
        Answer::Status(status) => memory::of(status.molds.iter().chain(&status.workers).chain([&status.pid])),
        Answer::Workers { workers } => memory::of(workers.iter().map(|worker| &worker.pid)),
        Answer::Progress { .. }
        | Answer::Done { .. }
        | Answer::Failed { .. }
        | Answer::Requests { .. }
        | Answer::Settings { .. } => memory::Memory::default(),
    };
    if words.json {
        let mut value = serde_json::to_value(answer).map_err(|error| internal(&error))?;
        if let Some(object) = value.as_object_mut().filter(|_| !memory.is_empty()) {
            object.insert("memory".into(), memory.to_json());
        }
        let text = serde_json::to_string_pretty(&value).map_err(|error| internal(&error))?;
        return say(&(text + "\n"));
    }
    match answer {
        Answer::Status(status) => say(&show::status(status, &memory)),
        Answer::Workers { workers } => say(&show::workers(workers, &memory)),
        Answer::Requests { requests } => say(&show::requests(requests)),
        Answer::Settings { text } => say(text),
        Answer::Done { text } | Answer::Failed { text } | Answer::Progress { text, .. } => say(&format!("{text}\n")),
    }
}

/// Gunicorn names workers by pid.
fn slot_of(words: &Words, pid: i32) -> Result<u32, Failure> {
    let mut client = Client::connect(words)?;
    client.send(&Order::Workers, false)?;
    let Answer::Workers { workers } = client.receive()? else {
        return Err(Failure { exit: FAILED, message: "the arbiter does not name its workers".into() });
    };
    let slot = workers.iter().find(|worker| worker.pid == pid).map(|worker| worker.slot);
    slot.ok_or_else(|| Failure { exit: FAILED, message: format!("no worker has pid {pid}") })
}

fn json(answer: &Answer) -> Result<String, Failure> {
    serde_json::to_string(answer).map(|line| line + "\n").map_err(|error| internal(&error))
}

fn internal(error: &dyn std::fmt::Display) -> Failure {
    Failure { exit: NO_INSTANCE, message: format!("the answer cannot be shown: {error}") }
}

/// Prints; a reader that has left (`| head`) is no failure.
fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { exit: FAILED, message: format!("stdout: {error}") })
        }
        _ => Ok(()),
    }
}

fn complain(message: &str) {
    for line in message.lines() {
        // Nothing can be done for a stderr that is gone.
        let _ = writeln!(std::io::stderr(), "rgunicornctl: {line}");
    }
}
