//! Answers as text for people.
//!
//! Owns the layout. Knows no socket. Invariant: no line depends on the locale or the time zone; durations instead of
//! times of day.

use crate::memory::Memory;
use rgunicorn_protocol::control::{Quantiles, Request, Speed, Status, Worker};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// What an operator wants to read first.
pub(crate) fn status(status: &Status, memory: &Memory) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let ago = |at: f64| span((now - at).max(0.0));
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<11} {text}");
    };
    let name = if status.instance.is_empty() { "rgunicorn" } else { &status.instance };
    line(
        name,
        format!("{} for {}, pid {}, rgunicorn {}", status.life, ago(status.started), status.pid, status.version),
    );
    line("State", status.summary.clone());
    if status.generation > 0 {
        let each = status.lanes.checked_div(status.workers_serving).unwrap_or(1);
        let class = &status.worker_class;
        let lanes = match class.as_str() {
            "gevent" | "asgi" => format!(", {class} with up to {each} requests each"),
            _ if each > 1 => format!(", {class} with {each} threads each"),
            _ => format!(", {class}"),
        };
        line(
            "Generation",
            format!(
                "{}, serving for {}{lanes}, {}",
                status.generation,
                ago(status.generation_since),
                status.interpreter
            ),
        );
    }
    // While it stops it listens no more.
    let on = if status.listeners.is_empty() { String::new() } else { format!(" on {}", status.listeners.join(", ")) };
    line("App", format!("{}{on}", status.app));
    let mut workers =
        format!("{} of {} serve, {} busy", status.workers_serving, status.workers_wanted, status.workers_busy);
    if status.lanes > status.workers_serving {
        let _ = write!(workers, " ({} of {} lanes)", status.lanes_busy, status.lanes);
    }
    for (number, what) in [(status.workers_booting, "boot"), (status.workers_leaving, "leave")] {
        if number > 0 {
            let _ = write!(workers, ", {number} {what}");
        }
    }
    line("Workers", workers);
    line(
        "Now",
        format!(
            "{} requests/s, {} open (over the last {})",
            rate(status.recent.rate),
            counted(status.connections, "connection"),
            span(status.recent.seconds)
        ),
    );
    let speed = if status.recent.requests > 0 { &status.recent } else { &status.overall };
    line("Latency", quantiles(speed.latency.as_ref(), speed, &status.recent));
    line("Queue", quantiles(speed.queue.as_ref(), speed, &status.recent));
    let totals = &status.totals;
    line(
        "Total",
        format!(
            "{}: {} 2xx, {} 3xx, {} 4xx, {} 5xx; {} accepted, {} sent",
            counted(totals.requests, "request"),
            grouped(totals.responses_2xx),
            grouped(totals.responses_3xx),
            grouped(totals.responses_4xx),
            grouped(totals.responses_5xx),
            counted(totals.accepted, "connection"),
            bytes(totals.body_bytes)
        ),
    );
    let troubles: Vec<String> = [
        (totals.rejected, "refused by the HTTP rules"),
        (totals.unanswered, "not answered"),
        (totals.timeouts, "ended by timeout"),
        (totals.queue_timeouts, "ended by queue_timeout"),
        (totals.send_timeouts, "not read by their clients"),
        (totals.spool_refusals, "refused for want of spool"),
    ]
    .iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{} {what}", grouped(*n)))
    .collect();
    if !troubles.is_empty() {
        line("Troubles", troubles.join(", "));
    }
    if status.reloading {
        line("Reload", "a new generation boots".into());
    }
    if let Some(reload) = &status.latest_reload {
        let outcome = match &reload.failure {
            None => format!("generation {} took over {} ago", reload.generation, ago(reload.at)),
            Some(why) => format!("FAILED {} ago: {}", ago(reload.at), why.lines().next().unwrap_or_default()),
        };
        line("Reload", outcome);
    }
    if status.deaths + status.recycled > 0 {
        let mut text = format!("{} died, {} recycled", grouped(status.deaths), grouped(status.recycled));
        if let Some(death) = &status.latest_death {
            let _ = write!(text, "; {} ago: {}", ago(death.at), death.text.lines().next().unwrap_or_default());
        }
        line("Restarts", text);
    }
    if status.spooled > 0 {
        line("Spool", format!("{} of request bodies on disk", bytes(status.spooled)));
    }
    if !memory.is_empty() {
        let workers = memory.sum(status.workers.iter());
        let molds = memory.sum(status.molds.iter());
        let arbiter = memory.sum([status.pid].iter());
        let each = status.workers.len().max(1) as u64;
        let mut text = format!(
            "{}: workers {} ({} each), arbiter {}",
            bytes(workers + molds + arbiter),
            bytes(workers),
            bytes(workers / each),
            bytes(arbiter)
        );
        if !status.molds.is_empty() {
            let _ = write!(text, ", mold {}", bytes(molds));
        }
        let _ = write!(text, "; {} of it shared", bytes(memory.shared()));
        line("Memory", text);
    }
    out
}

fn quantiles(quantiles: Option<&Quantiles>, shown: &Speed, recent: &Speed) -> String {
    let Some(q) = quantiles else { return "no request yet".into() };
    let since = if shown == recent { String::new() } else { "  (since the start; none lately)".into() };
    format!("p50 {}, p90 {}, p99 {}, p99.9 {}{since}", time(q.p50), time(q.p90), time(q.p99), time(q.p999))
}

/// One line for each worker.
pub(crate) fn workers(workers: &[Worker], memory: &Memory) -> String {
    let head =
        ["SLOT", "GEN", "PID", "STATE", "FOR", "BUSY", "CONN", "REQUESTS", "REQ/S", "P50", "P99", "5XX", "PSS", ""];
    let row = |worker: &Worker| {
        let at = |pick: fn(&Quantiles) -> f64| worker.recent.latency.as_ref().map_or("-".into(), |q| time(pick(q)));
        vec![
            worker.slot.to_string(),
            worker.generation.to_string(),
            if worker.pid > 0 { worker.pid.to_string() } else { "-".into() },
            worker.state.clone(),
            worker.seconds.map_or("-".into(), span),
            format!("{}/{}", worker.busy, worker.lanes),
            worker.connections.to_string(),
            grouped(worker.totals.requests),
            rate(worker.recent.rate),
            at(|q| q.p50),
            at(|q| q.p99),
            grouped(worker.totals.responses_5xx),
            memory.get(worker.pid).map_or("-".into(), |usage| bytes(usage.proportional)),
            worker.recycle.as_ref().map_or(String::new(), |why| format!("is replaced: {why}")),
        ]
    };
    table(&head, workers.iter().map(row).collect())
}

/// One line for each request.
pub(crate) fn requests(requests: &[Request]) -> String {
    if requests.is_empty() {
        return "no request runs\n".into();
    }
    let head = ["FOR", "QUIET", "SLOT", "LANE", "PID", "WAITS FOR", "ID", "REQUEST"];
    let row = |request: &Request| {
        let dots = if request.truncated { "..." } else { "" };
        vec![
            time(request.seconds),
            time(request.quiet),
            request.slot.to_string(),
            request.lane.to_string(),
            request.pid.to_string(),
            request.state.clone(),
            if request.id.is_empty() { "-".into() } else { request.id.clone() },
            format!("{} {}{dots}", request.method, request.path),
        ]
    };
    table(&head, requests.iter().map(row).collect())
}

/// Columns as wide as their widest entry; the last one as it is.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let all: Vec<Vec<String>> =
        std::iter::once(head.iter().map(|name| (*name).to_owned()).collect()).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in &all {
        let mut line = String::new();
        for (entry, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{entry:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `1 request`, `12,345 requests`.
fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{} {what}s", grouped(n)) }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn rate(rate: f64) -> String {
    if rate >= 10.0 || rate == 0.0 { grouped(rate.round() as u64) } else { format!("{rate:.1}") }
}

/// A short duration: `85 us`, `1.2 ms`, `34 ms`, `2.05 s`, then as [`span`].
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.000_999_5 => format!("{:.0} us", s * 1e6),
        s if s < 0.009_95 => format!("{:.1} ms", s * 1e3),
        s if s < 0.999_5 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.2} s"),
        s => span(s),
    }
}

/// A long duration, its two largest parts: `48 s`, `3 min 12 s`, `2 h 5 min`, `9 d 4 h`.
fn span(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    let two = |large: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {part}"),
    };
    match s {
        0..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s / 60 % 60, "min"),
        _ => two(s / 86_400, "d", s / 3600 % 24, "h"),
    }
}

fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.5 {
            return if value < 9.95 && unit != "B" {
                format!("{value:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_like_prose() {
        assert_eq!(time(0.000_085), "85 us");
        assert_eq!(time(0.001_23), "1.2 ms");
        assert_eq!(time(0.034), "34 ms");
        assert_eq!(time(2.0), "2.00 s");
        assert_eq!(span(192.0), "3 min 12 s");
        assert_eq!(span(7200.0), "2 h");
        assert_eq!(bytes(5 << 20), "5.0 MiB");
        assert_eq!(bytes(412 << 20), "412 MiB");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!((rate(0.0), rate(1.25), rate(812.3)), ("0".into(), "1.2".into(), "812".into()));
    }

    #[test]
    fn the_last_reload_is_told_with_its_reason() {
        let failure = Some("The reload has failed: no module\nTraceback".to_owned());
        let reload = rgunicorn_protocol::control::Reload { at: 0.0, generation: 2, failure };
        let text = status(&Status { latest_reload: Some(reload), ..Status::default() }, &Memory::default());
        assert!(text.contains("FAILED") && text.contains("no module") && !text.contains("Traceback"), "{text}");
    }

    #[test]
    fn a_request_that_runs_is_one_line() {
        let request = Request {
            seconds: 31.5,
            method: "GET".into(),
            path: "/slow".into(),
            id: "4bf9".into(),
            ..Request::default()
        };
        let text = requests(&[request]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("31.50 s") && text.contains("4bf9  GET /slow"), "{text}");
        assert_eq!(requests(&[]), "no request runs\n");
    }
}
