//! One WebSocket behind its handshake.
//!
//! Owns frames on their way in and out and the state of closing. The driver gives received bytes
//! ([`Session::handle_input`]), takes what they mean ([`Session::poll_event`]), gives messages, and sends what collects
//! in [`Session::output`]. Invariants: pings are answered before later messages are seen; after an [`Event::Closed`]
//! nothing more comes; a client that breaks a rule is sent the close code that says which.

use crate::code;
use crate::headers::Headers;
use std::io::{self, Read, Write};
use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Message, Utf8Bytes};

/// Bytes that tungstenite takes at once. It keeps a buffer of this size for each WebSocket, and most are idle.
const READ_SIZE: usize = 2048;
/// A message's limit where the settings give none: a frame's announced length is reserved at once.
const LARGEST: usize = 1 << 30;
/// Bytes of a control frame's payload (section 5.5), less those of the code.
const LONGEST_REASON: usize = 123;

/// What the settings allow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bytes of a message, all its fragments together; 0: 1 GiB.
    pub message: usize,
}

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A text.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
    /// It is alive: a pong.
    Pong,
    /// The WebSocket is over.
    Closed(Closed),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The code for the application.
    pub code: u16,
    /// The client's reason, or the rule that it broke.
    pub reason: String,
    /// The client broke a rule.
    pub fault: bool,
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFault {
    /// It is closed, or closing.
    Closed,
    /// A close code that may not be sent (section 7.4).
    Code(u16),
    /// A close reason above 123 bytes.
    Reason,
}

impl std::fmt::Display for SendFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SendFault::Closed => f.write_str("the WebSocket is closed"),
            SendFault::Code(code) => write!(f, "{code} is no close code that may be sent (RFC 6455 section 7.4)"),
            SendFault::Reason => write!(f, "a close reason has at most {LONGEST_REASON} bytes of UTF-8"),
        }
    }
}

/// Both directions' bytes, as the stream that tungstenite reads and writes.
#[derive(Debug, Default)]
struct Wire {
    input: Vec<u8>,
    at: usize,
    output: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.at..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        if self.at == self.input.len() {
            // An idle WebSocket holds nothing.
            self.input = Vec::new();
            self.at = 0;
        }
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    context: WebSocketContext,
    wire: Wire,
    headers: Headers,
    /// The rule that the header behind [`Wire::input`] breaks.
    broken: Option<&'static str>,
    /// [`Event::Closed`] was given.
    over: bool,
}

impl Session {
    /// A WebSocket whose handshake was answered with 101.
    pub fn new(limits: Limits) -> Session {
        let most = if limits.message == 0 { LARGEST } else { limits.message.min(LARGEST) };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_SIZE)
            .write_buffer_size(0)
            .max_message_size(Some(most))
            .max_frame_size(Some(most.max(LONGEST_REASON + 2)));
        Session {
            context: WebSocketContext::new(Role::Server, Some(config)),
            wire: Wire::default(),
            headers: Headers::default(),
            broken: None,
            over: false,
        }
    }

    /// Bytes that were received.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        if self.over || self.broken.is_some() {
            return;
        }
        let fault = self.headers.find_fault(bytes);
        self.broken = fault.map(|(_, rule)| rule);
        self.wire.input.extend_from_slice(&bytes[..fault.map_or(bytes.len(), |(at, _)| at)]);
    }

    /// The client's end of stream, after everything before it went through [`Session::poll_event`].
    pub fn handle_eof(&mut self) -> Option<Closed> {
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        Some(Closed {
            code: code::ABNORMAL,
            reason: "the client left without closing the WebSocket".to_owned(),
            fault: false,
        })
    }

    /// What the received bytes mean, one thing at a time; none: more bytes are needed.
    pub fn poll_event(&mut self) -> Option<Event> {
        while !self.over {
            match self.context.read(&mut self.wire) {
                Ok(Message::Text(text)) => return Some(Event::Text(text)),
                Ok(Message::Binary(bytes)) => return Some(Event::Binary(bytes)),
                Ok(Message::Pong(_)) => return Some(Event::Pong),
                // Its answer goes out with the next look.
                Ok(Message::Ping(_) | Message::Frame(_)) => {}
                Ok(Message::Close(frame)) => {
                    self.over = true;
                    // Writes the answer; then the connection is ours to end.
                    let _ = self.context.flush(&mut self.wire);
                    return Some(Event::Closed(match frame {
                        Some(frame) => {
                            Closed { code: frame.code.into(), reason: frame.reason.to_string(), fault: false }
                        }
                        None => Closed { code: code::NONE, reason: String::new(), fault: false },
                    }));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = self.context.flush(&mut self.wire);
                    let rule = self.broken.take()?;
                    return Some(self.blame(code::PROTOCOL, rule.to_owned()));
                }
                Err(error) => return Some(self.blame(code_for(&error), error.to_string())),
            }
        }
        None
    }

    /// The client has broken a rule, and is told the code.
    fn blame(&mut self, code: u16, rule: String) -> Event {
        self.over = true;
        let _ = self.context.close(&mut self.wire, Some(frame(code, "")));
        Event::Closed(Closed { code, reason: rule, fault: true })
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        !self.over && self.context.can_write()
    }

    /// Sends a text.
    ///
    /// # Errors
    /// It is closed.
    pub fn send_text(&mut self, text: &str) -> Result<(), SendFault> {
        self.send(Message::Text(text.into()))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// It is closed.
    pub fn send_binary(&mut self, bytes: &[u8]) -> Result<(), SendFault> {
        self.send(Message::Binary(Bytes::copy_from_slice(bytes)))
    }

    /// Asks the client for a sign of life.
    pub fn ping(&mut self) {
        let _ = self.send(Message::Ping(Bytes::new()));
    }

    fn send(&mut self, message: Message) -> Result<(), SendFault> {
        if !self.is_open() {
            return Err(SendFault::Closed);
        }
        self.context
            .write(&mut self.wire, message)
            .and_then(|()| self.context.flush(&mut self.wire))
            .map_err(|_| SendFault::Closed)
    }

    /// Closes: the client gets `code` and `reason`. What it still sends is of no interest.
    ///
    /// # Errors
    /// It is closed already, or code or reason may not be sent.
    pub fn close(&mut self, code: u16, reason: &str) -> Result<(), SendFault> {
        if !self.is_open() {
            return Err(SendFault::Closed);
        }
        if !CloseCode::from(code).is_allowed() {
            return Err(SendFault::Code(code));
        }
        if reason.len() > LONGEST_REASON {
            return Err(SendFault::Reason);
        }
        let _ = self.context.close(&mut self.wire, Some(frame(code, reason)));
        self.over = true;
        Ok(())
    }

    /// Bytes to send. The driver takes them all.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.output)
    }
}

fn frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame { code: code.into(), reason: reason.into() }
}

/// The close code that tells the client what it did.
fn code_for(error: &Error) -> u16 {
    match error {
        Error::Utf8(_) => code::INVALID,
        Error::Capacity(_) => code::TOO_BIG,
        _ => code::PROTOCOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame as a client sends it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            n @ 0..=125 => frame.push(0x80 | n as u8),
            n @ 126..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn events(session: &mut Session, bytes: &[u8]) -> Vec<Event> {
        session.handle_input(bytes);
        std::iter::from_fn(|| session.poll_event()).collect()
    }

    fn refused(bytes: &[u8]) -> u16 {
        let mut session = Session::new(Limits { message: 1000 });
        match events(&mut session, bytes).pop() {
            Some(Event::Closed(Closed { code, fault: true, .. })) => {
                let output = session.output();
                assert_eq!(output[0], 0x88, "a close frame is sent");
                assert_eq!(u16::from_be_bytes([output[2], output[3]]), code);
                assert_eq!(session.poll_event(), None);
                code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_arrive_whole_however_their_bytes_are_cut() {
        let mut wire = masked(0x01, b"Hel");
        wire.extend(masked(0x89, b"ping"));
        wire.extend(masked(0x80, "lö".as_bytes()));
        wire.extend(masked(0x82, &[7; 70_000]));
        for step in [1, 2, 7, 1000, wire.len()] {
            let mut session = Session::new(Limits::default());
            let mut seen = Vec::new();
            for part in wire.chunks(step) {
                seen.extend(events(&mut session, part));
            }
            assert_eq!(seen, [Event::Text("Hellö".into()), Event::Binary(Bytes::from(vec![7; 70_000]))]);
            assert_eq!(session.output(), [&[0x8a, 4][..], b"ping"].concat(), "the ping is answered");
        }
    }

    #[test]
    fn each_fault_has_its_close_code() {
        assert_eq!(refused(&[0x81, 0x01, b'a']), code::PROTOCOL, "not masked");
        assert_eq!(refused(&masked(0xc1, b"a")), code::PROTOCOL, "a reserved bit");
        assert_eq!(refused(&masked(0x83, b"a")), code::PROTOCOL, "a reserved opcode");
        assert_eq!(refused(&masked(0x8b, b"a")), code::PROTOCOL, "a reserved control opcode");
        assert_eq!(refused(&masked(0x80, b"a")), code::PROTOCOL, "a continuation of nothing");
        assert_eq!(refused(&[masked(0x01, b"a"), masked(0x81, b"b")].concat()), code::PROTOCOL, "a message inside one");
        assert_eq!(refused(&masked(0x09, b"")), code::PROTOCOL, "a fragmented ping");
        assert_eq!(refused(&masked(0x89, &[0; 126])), code::PROTOCOL, "a long ping");
        assert_eq!(refused(&masked(0x88, b"x")), code::PROTOCOL, "half a close code");
        assert_eq!(refused(&masked(0x81, b"\xff")), code::INVALID, "not UTF-8");
        assert_eq!(refused(&masked(0x82, &[0; 1001])), code::TOO_BIG, "a long frame");
        assert_eq!(refused(&[masked(0x02, &[0; 600]), masked(0x80, &[0; 600])].concat()), code::TOO_BIG, "in parts");
        assert_eq!(refused(b"\x82\xfe\0\x01"), code::PROTOCOL, "a length in more bytes than it needs");
        assert_eq!(refused(b"\x82\xff\0\0\0\0\0\0\xff\xff"), code::PROTOCOL, "in many more");
        assert_eq!(refused(b"\x82\xff\x80\0\0\0\0\0\0\0"), code::PROTOCOL, "the highest bit of a length");
        assert_eq!(refused(b"\x82\xff\x7f\0\0\0\0\0\0\0abcd"), code::TOO_BIG, "a length beyond all memory");
    }

    #[test]
    fn a_header_that_breaks_a_rule_is_answered_before_its_payload_comes() {
        assert_eq!(refused(b"\xc2\xfe\x03\xe8"), code::PROTOCOL);
        let mut session = Session::new(Limits::default());
        let bytes = [&masked(0x89, b"p")[..], &masked(0x81, b"before"), b"\xb1"].concat();
        assert_eq!(events(&mut session, &bytes), [Event::Text("before".into())]);
        let last = events(&mut session, b"\xff");
        assert!(matches!(&last[..], [Event::Closed(Closed { code: code::PROTOCOL, fault: true, .. })]), "{last:?}");
        assert_eq!(session.output(), b"\x8a\x01p\x88\x02\x03\xea");
    }

    #[test]
    fn close_codes_that_nobody_may_send_are_refused() {
        for bad in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535_u16] {
            let mut session = Session::new(Limits::default());
            let events = events(&mut session, &masked(0x88, &bad.to_be_bytes()));
            assert!(matches!(&events[..], [Event::Closed(Closed { code: code::PROTOCOL, .. })]), "{bad}: {events:?}");
            assert_eq!(session.output()[2..4], code::PROTOCOL.to_be_bytes(), "{bad}");
        }
        for good in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999_u16] {
            let mut session = Session::new(Limits::default());
            let events = events(&mut session, &masked(0x88, &good.to_be_bytes()));
            assert!(matches!(&events[..], [Event::Closed(Closed { code, .. })] if *code == good), "{good}: {events:?}");
            assert_eq!(session.output(), [&[0x88, 2][..], &good.to_be_bytes()].concat(), "{good}");
        }
        assert_eq!(refused(&masked(0x88, b"\x03\xe8\xff")), code::INVALID, "a reason that is not UTF-8");
        assert_eq!(refused(&masked(0x88, &[3; 126])), code::PROTOCOL, "a long reason");
    }

    #[test]
    fn utf8_may_be_cut_anywhere_and_is_judged_as_it_comes() {
        let text = "κόσμε \u{10ffff}";
        for cut in 0..=text.len() {
            let (first, second) = text.as_bytes().split_at(cut);
            let mut session = Session::new(Limits::default());
            let mut seen = events(&mut session, &masked(0x01, first));
            seen.extend(events(&mut session, &masked(0x00, b"")));
            seen.extend(events(&mut session, &masked(0x80, second)));
            assert_eq!(seen, [Event::Text(text.into())], "{cut}");
        }
        // The message goes on; that it is wrong is certain.
        assert_eq!(refused(&masked(0x01, b"ok \xce\xba\xff")), code::INVALID);
        for bad in [&b"\xed\xa0\x80"[..], b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xfe", b"\x80"] {
            assert_eq!(refused(&masked(0x81, bad)), code::INVALID, "{bad:?}");
        }
        assert_eq!(refused(&masked(0x81, b"\xce")), code::INVALID, "cut at the end of the message");
        assert_eq!(refused(&[masked(0x01, b"\xce"), masked(0x80, b"")].concat()), code::INVALID, "in a last fragment");
    }

    #[test]
    fn a_clients_close_is_answered_with_its_code() {
        let mut session = Session::new(Limits::default());
        let closed = Closed { code: 1001, reason: "bye".into(), fault: false };
        assert_eq!(events(&mut session, &masked(0x88, b"\x03\xe9bye")), [Event::Closed(closed)]);
        assert_eq!(session.output(), b"\x88\x05\x03\xe9bye");
        assert_eq!(session.send_text("late"), Err(SendFault::Closed));
        assert_eq!(session.handle_eof(), None);
        let mut session = Session::new(Limits::default());
        let closed = Closed { code: code::NONE, reason: String::new(), fault: false };
        assert_eq!(events(&mut session, &masked(0x88, b"")), [Event::Closed(closed)]);
    }

    #[test]
    fn closing_says_the_code_once_and_nothing_after_it() {
        let mut session = Session::new(Limits::default());
        assert_eq!(session.close(1005, ""), Err(SendFault::Code(1005)));
        assert_eq!(session.close(1000, &"x".repeat(124)), Err(SendFault::Reason));
        session.send_text("a").unwrap();
        session.close(4000, "why").unwrap();
        assert_eq!(session.close(1000, ""), Err(SendFault::Closed));
        assert_eq!(session.output(), b"\x81\x01a\x88\x05\x0f\xa0why");
        assert_eq!(events(&mut session, &masked(0x81, b"late")), []);
    }

    #[test]
    fn an_end_without_a_close_frame_is_abnormal() {
        let mut session = Session::new(Limits::default());
        assert_eq!(events(&mut session, &masked(0x81, b"a")).len(), 1);
        assert_eq!(session.handle_eof().map(|closed| closed.code), Some(code::ABNORMAL));
    }
}
