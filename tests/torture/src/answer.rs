//! Answers: taking one from received bytes, and comparing it with what was expected.
//!
//! Strict, since the server under test is: a form of response that it never sends is a wrong answer.

use crate::request::Expected;

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server says that it closes the connection.
    pub(crate) last: bool,
}

/// Takes one response from the front of `input`; `Ok(None)` if it is not complete yet.
///
/// # Errors
/// What is not HTTP about it.
pub(crate) fn take(input: &mut Vec<u8>) -> Result<Option<Answer>, String> {
    let Some(end) = find(input, b"\r\n\r\n") else {
        return if b"HTTP/1.1 ".starts_with(&input[..input.len().min(9)]) { Ok(None) } else { Err(shown(input)) };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| shown(input))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status: u16 = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| shown(input))?;
    let (mut length, mut chunked, mut last) = (None, false, false);
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| shown(input))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse::<usize>().map_err(|_| shown(input))?),
            "transfer-encoding" => chunked = value == "chunked",
            "connection" => last = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let start = end + 4;
    let (body, used) = match length {
        Some(length) if input.len() >= start + length => (input[start..start + length].to_vec(), start + length),
        Some(_) => return Ok(None),
        None if chunked => match dechunk(&input[start..])? {
            Some((body, used)) => (body, start + used),
            None => return Ok(None),
        },
        None => return Err(format!("a response without a length: {}", shown(input))),
    };
    input.drain(..used);
    Ok(Some(Answer { status, body, last }))
}

/// The body and how many bytes it took.
fn dechunk(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&input[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&input[at..at + end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| format!("no chunk size: {}", shown(&input[at..])))?;
        let start = at + end + 2;
        let Some(data) = input.get(start..start + size + 2) else { return Ok(None) };
        if !data.ends_with(b"\r\n") {
            return Err(format!("no end of chunk: {}", shown(data)));
        }
        body.extend_from_slice(&data[..size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(input, what)
}

/// The beginning of bytes that should not be there.
pub(crate) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}

/// How an answer differs from what was expected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Another status than 200.
    Status(u16),
    /// The right kind of answer to another request, with its token.
    Other(String),
    /// The right token with wrong facts.
    Content(String),
}

impl Expected {
    /// # Errors
    /// What differs.
    pub(crate) fn compare(&self, answer: &Answer) -> Result<(), Difference> {
        if answer.status != 200 {
            return Err(Difference::Status(answer.status));
        }
        let end = answer.body.iter().position(|byte| *byte == b'\n').unwrap_or(answer.body.len());
        let line = String::from_utf8_lossy(&answer.body[..end]);
        let token = line.split(' ').next().unwrap_or_default();
        if token != self.token {
            return Err(Difference::Other(token.to_owned()));
        }
        // After the expected line comes the worker's pid.
        let facts = line.rsplit_once(' ').map(|(facts, _pid)| facts);
        let padding = answer.body.get(end + 1..).unwrap_or_default();
        if facts != Some(&self.line) || padding.len() != self.padding || padding.iter().any(|byte| *byte != b'x') {
            return Err(Difference::Content(shown(&answer.body)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_response_is_taken_when_its_last_byte_is_there_and_not_before() {
        for text in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        ] {
            for end in 0..text.len() {
                assert_eq!(take(&mut text[..end].to_vec()), Ok(None));
            }
            let mut input = [text, b"HTTP"].concat();
            assert_eq!(take(&mut input), Ok(Some(Answer { status: 200, body: b"ok".to_vec(), last: false })));
            assert_eq!(input, b"HTTP");
        }
    }

    #[test]
    fn an_answer_to_another_request_is_told_from_a_wrong_one() {
        let expected = Expected { token: "1-2".into(), line: "1-2 GET 00000000 0".into(), padding: 1 };
        let compare = |body: &str| expected.compare(&Answer { status: 200, body: body.into(), last: false });
        assert_eq!(compare("1-2 GET 00000000 0 77\nx"), Ok(()));
        assert_eq!(compare("1-3 GET 00000000 0 77\nx"), Err(Difference::Other("1-3".into())));
        assert!(matches!(compare("1-2 GET 00000000 0 77\n"), Err(Difference::Content(_))));
    }
}
