//! The rules that the header of a frame must keep (RFC 6455 sections 5.1, 5.2 and 5.5).
//!
//! tungstenite judges a frame once its payload is complete, and takes a length that is encoded in more bytes than it
//! needs. Here a header is judged when its last byte comes. Owns where frames begin and end. Knows no payload and no
//! message. Invariant: what was received before a header that breaks a rule means what it meant.

/// Follows a client's bytes from header to header.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    /// Bytes of mask and payload before the next header.
    skip: u64,
    /// A header whose rest has not come, without its mask.
    header: [u8; LONGEST],
    have: usize,
}

/// First two bytes and the longest length.
const LONGEST: usize = 10;
/// The mask of a client's frame.
const MASK: u64 = 4;
/// Bytes of a control frame's payload.
const LONGEST_CONTROL: u8 = 125;

impl Headers {
    /// Looks at the bytes that come next. Of the first header that breaks a rule: where it begins in `bytes`, and the
    /// rule. Nothing may follow it.
    pub(crate) fn find_fault(&mut self, bytes: &[u8]) -> Option<(usize, &'static str)> {
        let (mut at, mut begin) = (0, 0);
        while at < bytes.len() {
            if self.skip > 0 {
                let n = self.skip.min((bytes.len() - at) as u64);
                self.skip -= n;
                at += n as usize;
                continue;
            }
            if self.have == 0 {
                begin = at;
            }
            self.header[self.have] = bytes[at];
            self.have += 1;
            at += 1;
            match judge(&self.header[..self.have]) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    self.skip = length + MASK;
                    self.have = 0;
                }
                Err(rule) => return Some((begin, rule)),
            }
        }
        None
    }
}

/// The length of the payload; none: the header goes on.
fn judge(header: &[u8]) -> Result<Option<u64>, &'static str> {
    let &[first, second, ref rest @ ..] = header else { return Ok(None) };
    let (last, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    let short = second & 0x7f;
    if reserved != 0 {
        return Err("a reserved bit is set, and no extension was negotiated");
    }
    if matches!(opcode, 3..=7 | 11..=15) {
        return Err("the opcode is reserved");
    }
    if opcode >= 8 && !last {
        return Err("a control frame is fragmented");
    }
    if opcode >= 8 && short > LONGEST_CONTROL {
        return Err("a control frame is longer than 125 bytes");
    }
    if second & 0x80 == 0 {
        return Err("a frame is not masked");
    }
    let (bytes, least) = match short {
        126 => (2, 126),
        127 => (8, 1 << 16),
        length => return Ok(Some(u64::from(length))),
    };
    if rest.len() < bytes {
        return Ok(None);
    }
    let length = rest.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    if length >> 63 != 0 {
        return Err("the highest bit of a length is set");
    }
    if length < least {
        return Err("a length is encoded in more bytes than it needs");
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8]) -> Option<usize> {
        let whole = Headers::default().find_fault(bytes);
        // Byte by byte the verdict is the same, and its place is where the header's last byte lies or before.
        let mut headers = Headers::default();
        let single = bytes.iter().position(|byte| headers.find_fault(&[*byte]).is_some());
        assert_eq!(whole.is_some(), single.is_some(), "{bytes:?}");
        if let (Some((begin, _)), Some(end)) = (whole, single) {
            assert!((begin..begin + LONGEST).contains(&end), "{bytes:?}");
        }
        whole.map(|(at, _)| at)
    }

    fn with_length(first: u8, length: &[u8], payload: usize) -> Vec<u8> {
        [&[first], length, &[9; 4], &vec![0xff; payload][..]].concat()
    }

    #[test]
    fn lengths_are_encoded_in_as_few_bytes_as_they_need() {
        for (length, payload) in [(&[0xfd][..], 125), (&[0xfe, 0, 126], 126), (&[0xfe, 0xff, 0xff], 65_535)] {
            assert_eq!(fault(&with_length(0x82, length, payload)), None);
        }
        assert_eq!(fault(&with_length(0x82, &[0xff, 0, 0, 0, 0, 0, 1, 0, 0], 65_536)), None);
        assert_eq!(fault(&with_length(0x82, &[0xfe, 0, 125], 125)), Some(0));
        assert_eq!(fault(&with_length(0x82, &[0xfe, 0, 0], 0)), Some(0));
        assert_eq!(fault(&with_length(0x82, &[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 65_535)), Some(0));
        assert_eq!(fault(&with_length(0x82, &[0xff, 0x80, 0, 0, 0, 0, 1, 0, 0], 0)), Some(0), "the highest bit");
        assert_eq!(fault(&with_length(0x82, &[0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 9)), None);
    }

    #[test]
    fn a_fault_is_found_behind_frames_that_are_right() {
        let good = with_length(0x01, &[0x85], 5);
        let ping = with_length(0x89, &[0x80], 0);
        let end = with_length(0x80, &[0xfe, 1, 0], 256);
        let before = [&good[..], &ping, &end].concat();
        assert_eq!(fault(&before), None);
        for bad in [&[0xc1, 0x80][..], &[0x81, 0x00], &[0x83, 0x80], &[0x8f, 0x80], &[0x09, 0x80], &[0x88, 0xfe]] {
            assert_eq!(fault(&[&before[..], bad].concat()), Some(before.len()), "{bad:?}");
        }
    }
}
