//! Plays a transcript: a driver without a socket, and a clock that moves when told.

use super::text::{Case, Line};
use rgunicorn_http::{
    BodyFraming, Connection, End, Eof, Expired, Framing, Head, HttpDate, Rejection, ResponseFault, Step, imf_fixdate,
};
use std::time::{Duration, Instant};

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(crate) fn date() -> HttpDate {
    imf_fixdate(784_111_777)
}

/// How arrivals are cut into pieces.
pub(crate) enum Split<'a> {
    Whole,
    Bytes,
    /// Asked for the length of each next piece.
    Random(&'a mut dyn FnMut(usize) -> usize),
}

/// Plays `case` and compares. `Err` tells the difference.
pub(crate) fn play(case: &Case, mut split: Split<'_>) -> Result<Vec<String>, String> {
    let mut world = World::new(case);
    let mut expected = Vec::new();
    for line in &case.lines {
        match line {
            Line::Arrive(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let len = match &mut split {
                        Split::Whole => rest.len(),
                        Split::Bytes => 1,
                        Split::Random(next) => next(rest.len()),
                    };
                    let (piece, tail) = rest.split_at(len);
                    world.arrive(piece);
                    rest = tail;
                }
            }
            Line::Fin => world.fin(),
            Line::Clock(passed) => world.wait(*passed),
            Line::Order(order) => world.order(order),
            Line::Ask(question) => world.ask(question),
            Line::Expect(event) => {
                expected.push(event.clone());
                if world.log.len() < expected.len() {
                    return Err(format!("expected {event:?}, but nothing happened; log: {:#?}", world.log));
                }
            }
            Line::Sent(bytes) => {
                let sent = std::mem::take(&mut world.out);
                if &sent != bytes {
                    return Err(format!("sent\n  {}\ninstead of\n  {}", sent.escape_ascii(), bytes.escape_ascii()));
                }
            }
        }
        let seen = world.log.len().min(expected.len());
        if world.log[..seen] != expected[..seen] {
            return Err(format!("events\n{:#?}\ninstead of\n{expected:#?}", world.log));
        }
    }
    if world.log != expected {
        return Err(format!("events\n{:#?}\ninstead of\n{expected:#?}", world.log));
    }
    Ok(world.log)
}

struct World<'c> {
    case: &'c Case,
    connection: Connection,
    head: Head,
    now: Instant,
    input: Vec<u8>,
    out: Vec<u8>,
    log: Vec<String>,
    rejection: Option<Rejection>,
    /// `closed` was logged.
    closed: bool,
    /// The last event was a piece of body of the same arrival or the one before.
    in_body: bool,
}

impl<'c> World<'c> {
    fn new(case: &'c Case) -> World<'c> {
        let now = Instant::now();
        World {
            case,
            connection: Connection::new(&case.policy, now),
            head: Head::default(),
            now,
            input: Vec::new(),
            out: Vec::new(),
            log: Vec::new(),
            rejection: None,
            closed: false,
            in_body: false,
        }
    }

    fn say(&mut self, event: impl Into<String>) {
        self.in_body = false;
        self.log.push(event.into());
    }

    fn arrive(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        self.drive();
    }

    fn drive(&mut self) {
        loop {
            let case = self.case;
            let step = self.connection.handle_input(&case.policy, case.trust, &self.input, &mut self.head, self.now);
            let consumed = match step {
                Step::NeedMore | Step::Wait => return,
                Step::Proxied { consumed, header } => {
                    let addresses = match header.addresses {
                        Some((source, destination)) => format!("{source} {destination}"),
                        None => "none".to_owned(),
                    };
                    self.say(format!("proxied v{} {addresses}", header.version));
                    consumed
                }
                Step::Skip { consumed } => consumed,
                Step::Request { consumed } => {
                    for event in describe(&self.head, &self.input[..consumed], self.case.lists_fields) {
                        self.say(event);
                    }
                    consumed
                }
                Step::Data { consumed, data } => {
                    assert!(data.end <= consumed && consumed <= self.input.len());
                    let text = self.input[data].escape_ascii().to_string();
                    if self.in_body {
                        self.log.last_mut().unwrap().push_str(&text);
                    } else {
                        self.say(format!("body {text}"));
                        self.in_body = true;
                    }
                    consumed
                }
                Step::End { consumed } => {
                    self.say("end");
                    consumed
                }
                Step::Rejected(rejection) => {
                    self.say(format!("rejected {}", rejection.rule.id()));
                    self.rejection = Some(rejection);
                    return;
                }
                Step::Switched => {
                    if !self.input.is_empty() {
                        let bytes = std::mem::take(&mut self.input);
                        self.say(format!("switched {}", bytes.escape_ascii()));
                    }
                    return;
                }
                Step::Closed => {
                    if !self.closed && self.rejection.is_none() {
                        self.closed = true;
                        self.say("closed");
                    }
                    self.input.clear();
                    return;
                }
            };
            self.input.drain(..consumed);
        }
    }

    fn fin(&mut self) {
        let event = match self.connection.handle_eof() {
            Eof::Clean => "eof clean".to_owned(),
            Eof::HalfClosed => "eof half-closed".to_owned(),
            Eof::Truncated(rejection) => {
                self.rejection = Some(rejection);
                format!("eof rejected {}", rejection.rule.id())
            }
        };
        self.say(event);
    }

    fn wait(&mut self, passed: Duration) {
        self.now += passed;
        match self.connection.handle_timeout(self.now) {
            Expired::NotYet => {}
            Expired::Close => self.say("expired close"),
            Expired::Rejected(rejection) => {
                self.rejection = Some(rejection);
                self.say(format!("expired rejected {}", rejection.rule.id()));
            }
        }
    }

    fn ask(&mut self, question: &str) {
        let answer = match question {
            "deadline" => match self.connection.deadline() {
                Some(deadline) => format!("{}ms", deadline.duration_since(self.now).as_millis()),
                None => "none".to_owned(),
            },
            "idle" => self.connection.is_idle().to_string(),
            "wants-continue" => self.connection.wants_continue().to_string(),
            _ => panic!("{}: no question {question}", self.case.title),
        };
        self.say(format!("{question} {answer}"));
    }

    fn order(&mut self, order: &str) {
        let policy = &self.case.policy;
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let mut event = None;
        match verb {
            "start" => {
                let (length, rest) = match rest.strip_prefix("length=") {
                    Some(rest) => {
                        let (length, rest) = rest.split_once(' ').unwrap();
                        (Some(length.parse().unwrap()), rest)
                    }
                    None => (None, rest),
                };
                let (status, fields) = status_and_fields(&self.case.title, rest);
                let started = self.connection.start_response(
                    policy,
                    &status,
                    fields.iter().map(|(n, v)| (&n[..], &v[..])),
                    length,
                    &date(),
                    &mut self.out,
                );
                event = Some(match started {
                    Ok(started) => {
                        let framing = match started.framing {
                            BodyFraming::None => "none".to_owned(),
                            BodyFraming::Length(length) => format!("length={length}"),
                            BodyFraming::Chunked => "chunked".to_owned(),
                            BodyFraming::UntilClose => "until-close".to_owned(),
                        };
                        let keep = if started.keep_alive { "keep-alive" } else { "close" };
                        let dropped = match started.dropped_fields {
                            0 => String::new(),
                            number => format!(" dropped={number}"),
                        };
                        format!("started {framing} {keep}{dropped}")
                    }
                    Err(fault) => describe_fault(&fault),
                });
            }
            "data" => {
                let data = super::text::unescape(&self.case.title, rest);
                if self.connection.append_data(&data, &mut self.out) {
                    event = Some("cut".to_owned());
                }
            }
            "end" => {
                event = Some(match self.connection.end_response(policy, self.now, &mut self.out) {
                    End::KeepAlive => "ended keep-alive".to_owned(),
                    End::Close => "ended close".to_owned(),
                    End::CloseShort { missing } => format!("ended short {missing}"),
                });
            }
            "continue" => self.connection.send_continue(&mut self.out),
            "hints" | "switch" => {
                let (first, fields) = if verb == "hints" {
                    (Vec::new(), status_and_fields(&self.case.title, &format!("| {rest}")).1)
                } else {
                    status_and_fields(&self.case.title, rest)
                };
                let fields = fields.iter().map(|(n, v)| (&n[..], &v[..]));
                let result = if verb == "hints" {
                    self.connection
                        .early_hints(fields, &mut self.out)
                        .map(|sent| if sent { "hinted" } else { "not hinted" })
                } else {
                    self.connection.switch_protocols(&first, fields, &mut self.out).map(|()| "switching")
                };
                event = Some(result.map_or_else(|fault| describe_fault(&fault), str::to_owned));
            }
            "reject" => {
                let rejection = self.rejection.expect("a rejection");
                if !self.connection.reject(policy, &rejection, &date(), &mut self.out) {
                    event = Some("silent".to_owned());
                }
            }
            "error" => {
                let (status, text) = rest.split_once(' ').unwrap();
                let status: u16 = status.parse().unwrap();
                let retry: &[(&[u8], &[u8])] = if status == 503 { &[(b"Retry-After", b"7")] } else { &[] };
                if !self.connection.error_response(policy, status, text, retry, &date(), &mut self.out) {
                    event = Some("silent".to_owned());
                }
            }
            "last" => self.connection.close_after_response(),
            "abort" => self.connection.abort_response(),
            "resume" => self.connection.resume_body(policy, self.now),
            _ => panic!("{}: no order {verb}", self.case.title),
        }
        if let Some(event) = event {
            self.say(event);
        }
        // The driver looks again at what it had to leave.
        self.drive();
    }
}

/// Names and values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn status_and_fields(place: &str, text: &str) -> (Vec<u8>, Fields) {
    let mut parts = text.split('|');
    let status = super::text::unescape(place, parts.next().unwrap().trim());
    let fields = parts
        .map(|part| {
            let (name, value) = part.split_once(':').unwrap_or_else(|| panic!("{place}: {part}"));
            (super::text::unescape(place, name.trim()), super::text::unescape(place, value.trim()))
        })
        .collect();
    (status, fields)
}

fn describe_fault(fault: &ResponseFault) -> String {
    let kind = match fault {
        ResponseFault::Status(_) => "status",
        ResponseFault::Informational(_) => "informational",
        ResponseFault::FieldName(_) => "field-name",
        ResponseFault::FieldValue(_) => "field-value",
        ResponseFault::ContentLength(_) => "content-length",
        ResponseFault::OutOfTurn => "out-of-turn",
    };
    format!("fault {kind}")
}

/// A head as events.
pub(crate) fn describe(head: &Head, bytes: &[u8], fields: bool) -> Vec<String> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut request = format!(
        "request {} {} HTTP/{}.{}",
        text(&head.method_name(bytes)),
        text(head.target.of(bytes)),
        head.version.major,
        head.version.minor
    );
    if head.path(bytes) != head.target.of(bytes) {
        request += &format!(" path={}", text(head.path(bytes)));
    }
    if let Some(query) = head.query {
        request += &format!(" query={}", text(query.of(bytes)));
    }
    if let Some(host) = head.host {
        request += &format!(" host={}", text(host.of(bytes)));
    }
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => request += &format!(" length={length}"),
        Framing::Chunked => request += " chunked",
    }
    if !head.keep_alive {
        request += " close";
    }
    if head.expect_continue {
        request += " expect";
    }
    if head.https {
        request += " https";
    }
    if let Some(upgrade) = head.upgrade {
        request += &format!(" upgrade={}", text(upgrade.of(bytes)));
    }
    if head.dropped_fields > 0 {
        request += &format!(" dropped={}", head.dropped_fields);
    }
    let mut events = vec![request];
    if fields {
        events.extend(
            head.fields.iter().map(|f| format!("field {}: {}", text(f.name.of(bytes)), text(f.value.of(bytes)))),
        );
    }
    events
}
