//! A driver without a socket that answers every request at once, and remembers what it saw.

use super::play::date;
use super::strict::Message;
use rgunicorn_http::{Connection, End, Eof, Head, Policy, Rule, Step, Trust};
use std::time::Instant;

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Complete requests, in order.
    pub(crate) messages: Vec<Message>,
    /// The request whose body was not complete at the end.
    pub(crate) unfinished: Option<Message>,
    /// The rule that ended it.
    pub(crate) refused: Option<Rule>,
    /// Bytes were left unread because the connection closed.
    pub(crate) closed: bool,
    /// Everything that was sent.
    pub(crate) sent: Vec<u8>,
    /// The most bytes that had to be kept between two arrivals.
    pub(crate) most_kept: usize,
}

/// How requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answering {
    /// When they are complete, and the connection goes on if the engine says so.
    Complete,
    /// With their head; the rest of the request is drained.
    Early,
}

/// Lets `pieces` arrive one after the other, then FIN.
pub(crate) fn drive<'p>(
    policy: &Policy,
    trust: Trust,
    answering: Answering,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Seen {
    let now = Instant::now();
    let mut connection = Connection::new(policy, now);
    let mut head = Head::default();
    let mut kept = Vec::new();
    let mut seen =
        Seen { messages: Vec::new(), unfinished: None, refused: None, closed: false, sent: Vec::new(), most_kept: 0 };
    let answer = |connection: &mut Connection, sent: &mut Vec<u8>| {
        let fields: [(&[u8], &[u8]); 1] = [(b"X-Test", b"1")];
        connection.start_response(policy, b"200 OK", fields, Some(2), &date(), sent).unwrap();
        connection.append_data(b"ok", sent);
        assert!(matches!(connection.end_response(policy, now, sent), End::KeepAlive | End::Close));
    };
    'arrivals: for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            let consumed = match connection.handle_input(policy, trust, &kept, &mut head, now) {
                Step::NeedMore => {
                    assert!(seen.unfinished.is_none() || kept.is_empty(), "inside a body everything is taken");
                    break;
                }
                Step::Wait => panic!("every request is answered"),
                Step::Switched => panic!("nothing is switched"),
                Step::Closed => {
                    seen.closed = true;
                    break 'arrivals;
                }
                Step::Rejected(rejection) => {
                    seen.refused = Some(rejection.rule);
                    connection.reject(policy, &rejection, &date(), &mut seen.sent);
                    break 'arrivals;
                }
                Step::Proxied { consumed, .. } | Step::Skip { consumed } => consumed,
                Step::Request { consumed } => {
                    assert!(seen.unfinished.is_none());
                    let message = message(&head, &kept[..consumed]);
                    if head.framing.is_empty() || answering == Answering::Early {
                        seen.messages.push(message);
                        answer(&mut connection, &mut seen.sent);
                    } else {
                        connection.send_continue(&mut seen.sent);
                        seen.unfinished = Some(message);
                    }
                    consumed
                }
                Step::Data { consumed, data } => {
                    assert!(!data.is_empty() && data.end <= consumed);
                    seen.unfinished.as_mut().unwrap().body.extend_from_slice(&kept[data]);
                    consumed
                }
                Step::End { consumed } => {
                    seen.messages.push(seen.unfinished.take().unwrap());
                    answer(&mut connection, &mut seen.sent);
                    consumed
                }
            };
            assert!(consumed <= kept.len());
            kept.drain(..consumed);
        }
        seen.most_kept = seen.most_kept.max(kept.len());
    }
    if seen.refused.is_none()
        && let Eof::Truncated(rejection) = connection.handle_eof()
    {
        seen.refused = Some(rejection.rule);
    }
    seen
}

fn message(head: &Head, bytes: &[u8]) -> Message {
    Message {
        method: head.method_span.of(bytes).to_vec(),
        target: head.target.of(bytes).to_vec(),
        version: (head.version.major, head.version.minor),
        fields: head.fields.iter().map(|f| (f.name.of(bytes).to_vec(), f.value.of(bytes).to_vec())).collect(),
        body: Vec::new(),
    }
}
