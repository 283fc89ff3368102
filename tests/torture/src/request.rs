//! Requests: their bytes, and what their answers must say.
//!
//! Invariant: no two requests of a run have the same token.

use crate::random::Random;
use std::fmt::Write;

/// What a client does on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// One request after the other.
    Plain,
    /// Two to six requests in one write.
    Pipelining,
    /// Twelve to twenty-four requests in one write, and hardly a pause: most of the requests of a run.
    Flooding,
    /// One request after the other without a pause, on a connection that lasts.
    Quick,
    /// Sends its heads byte by byte.
    Slow,
    /// Sends bodies, with Content-Length and chunked.
    Uploading,
    /// Reads large responses slowly.
    Reading,
    /// A new connection for each request.
    Once,
    /// Asks for responses that take a while.
    Waiting,
}

impl Kind {
    /// The kind of client number `n`: a third are plain, the others take turns. Servers that do not answer pipelined
    /// requests are tried without: those clients are quick ones then.
    pub(crate) fn of(n: usize, pipelining: bool) -> Kind {
        const TURNS: [Kind; 12] = [
            Kind::Plain,
            Kind::Pipelining,
            Kind::Flooding,
            Kind::Uploading,
            Kind::Plain,
            Kind::Slow,
            Kind::Quick,
            Kind::Once,
            Kind::Plain,
            Kind::Reading,
            Kind::Plain,
            Kind::Waiting,
        ];
        match TURNS[n % TURNS.len()] {
            Kind::Pipelining | Kind::Flooding if !pipelining => Kind::Quick,
            kind => kind,
        }
    }

    /// How many requests one write carries, at least and at most.
    pub(crate) fn batch(self) -> (u64, u64) {
        match self {
            Kind::Pipelining => (2, 6),
            Kind::Flooding => (12, 24),
            Kind::Quick | Kind::Plain | Kind::Slow | Kind::Uploading | Kind::Reading | Kind::Once | Kind::Waiting => {
                (1, 1)
            }
        }
    }
}

/// What the answer must say.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) token: String,
    /// The line that the application answers with, up to its pid.
    pub(crate) line: String,
    /// Bytes of padding that follow the line.
    pub(crate) padding: usize,
}

/// The CRC-32 of zlib, which Python has, too.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| (crc >> 8) ^ CRC[((crc ^ u32::from(*byte)) & 255) as usize])
}

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Appends a request's bytes to `out`. `last`: the client says that it is.
pub(crate) fn compose(kind: Kind, token: String, last: bool, random: &mut Random, out: &mut Vec<u8>) -> Expected {
    let (mut query, mut padding, mut body) = (String::new(), 0, Vec::new());
    let method = if kind == Kind::Uploading { "POST" } else { "GET" };
    match kind {
        Kind::Plain | Kind::Pipelining | Kind::Flooding | Kind::Quick | Kind::Slow | Kind::Once => {}
        Kind::Uploading => {
            let length = if random.once_in(4) { random.between(10_000, 150_000) } else { random.between(0, 4_000) };
            body = (0..length).map(|_| random.next() as u8).collect();
        }
        Kind::Reading => {
            padding = random.between(100_000, 600_000) as usize;
            let _ = write!(query, "&padding={padding}");
            if random.once_in(2) {
                query.push_str("&pieces=1");
            }
        }
        Kind::Waiting => {
            let _ = write!(query, "&sleep={}", random.between(1, 30));
        }
    }
    let line = format!("{token} {method} {:08x} {}", crc32(&body), body.len());
    let mut head = format!("{method} /?token={token}{query} HTTP/1.1\r\nHost: torture\r\n");
    if last {
        head.push_str("Connection: close\r\n");
    }
    if kind != Kind::Uploading {
        head.push_str("\r\n");
        out.extend_from_slice(head.as_bytes());
    } else if random.once_in(2) {
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&body);
    } else {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        out.extend_from_slice(head.as_bytes());
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(rest.len().min(random.between(1, 30_000) as usize));
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
            rest = after;
        }
        out.extend_from_slice(b"0\r\n\r\n");
    }
    Expected { token, line, padding }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
    }
}
