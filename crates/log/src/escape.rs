//! Bytes from outside, made harmless for one line of a log.
//!
//! Owns the rule of what may stand in a line unescaped: printable ASCII except the quote and the backslash. Everything
//! else, other alphabets included, is written as an escape, so that neither a line break of any alphabet nor a
//! terminal's control sequence can come out.

/// How an escaped byte is written, and whether a space is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `\"`, `\\`, `\x0A`, as nginx and Apache do.
    Hex,
    /// The same, and a space is `\x20`: for values that stand between spaces without quotes.
    HexWord,
    /// `\"`, `\\`, `\u000A`: for a format that is itself a JSON template.
    Json,
}

const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Appends `value` to `line`, escaped.
pub(crate) fn push_escaped(line: &mut Vec<u8>, value: &[u8], style: Style) {
    let mut rest = value;
    while !rest.is_empty() {
        let stop = |&byte: &u8| !PLAIN[byte as usize] || (byte == b' ' && style == Style::HexWord);
        let plain = rest.iter().position(stop).unwrap_or(rest.len());
        line.extend_from_slice(&rest[..plain]);
        if let Some(&byte) = rest.get(plain) {
            match (byte, style) {
                (b'"' | b'\\', _) => line.extend_from_slice(&[b'\\', byte]),
                (_, Style::Hex | Style::HexWord) => push_hex(line, b"\\x", byte),
                (_, Style::Json) => push_hex(line, b"\\u00", byte),
            }
        }
        rest = rest.get(plain + 1..).unwrap_or_default();
    }
}

fn push_hex(line: &mut Vec<u8>, prefix: &[u8], byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    line.extend_from_slice(prefix);
    line.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Appends a text that may have several lines. Later lines are indented, so that none of them can pass for a record;
/// control characters other than the tabulator are escaped.
pub(crate) fn push_lines(line: &mut Vec<u8>, text: &str) {
    let mut lines = text.trim_end_matches(['\n', '\r']).split('\n');
    if let Some(first) = lines.next() {
        push_printable(line, first);
    }
    for next in lines {
        line.extend_from_slice(b"\n  ");
        push_printable(line, next);
    }
}

fn push_printable(line: &mut Vec<u8>, text: &str) {
    let mut start = 0;
    for (at, character) in text.char_indices() {
        let breaks = matches!(character, '\u{2028}' | '\u{2029}');
        if (character.is_control() && character != '\t') || breaks {
            line.extend_from_slice(&text.as_bytes()[start..at]);
            start = at + character.len_utf8();
            if character != '\r' || start != text.len() {
                for &byte in &text.as_bytes()[at..start] {
                    push_hex(line, b"\\x", byte);
                }
            }
        }
    }
    line.extend_from_slice(&text.as_bytes()[start..]);
}

/// Appends a value of a `key=value` pair: quoted where it is empty or has anything but plain characters.
pub(crate) fn push_value(line: &mut Vec<u8>, value: &str) {
    let simple = |byte: u8| PLAIN[usize::from(byte)] && byte != b' ' && byte != b'=';
    if !value.is_empty() && value.bytes().all(simple) {
        line.extend_from_slice(value.as_bytes());
        return;
    }
    line.push(b'"');
    let mut buffer = [0; 4];
    for character in value.chars() {
        match character {
            '"' => line.extend_from_slice(b"\\\""),
            '\\' => line.extend_from_slice(b"\\\\"),
            '\n' => line.extend_from_slice(b"\\n"),
            '\t' => line.extend_from_slice(b"\\t"),
            '\u{2028}' | '\u{2029}' => line.extend_from_slice(character.escape_unicode().to_string().as_bytes()),
            other if other.is_control() => line.extend_from_slice(other.escape_unicode().to_string().as_bytes()),
            other => line.extend_from_slice(other.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    line.push(b'"');
}

/// Appends a JSON string. Bytes that are not UTF-8 are read as Latin-1, as WSGI does.
pub(crate) fn push_json(line: &mut Vec<u8>, value: &[u8]) {
    line.push(b'"');
    let mut rest = value;
    loop {
        let plain = rest.iter().position(|&byte| !PLAIN[usize::from(byte)]).unwrap_or(rest.len());
        line.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
        match rest.first() {
            None => break,
            Some(byte) if byte.is_ascii() => {
                push_json_character(line, char::from(*byte));
                rest = &rest[1..];
            }
            // Whether it is UTF-8 is seen only now: most values are plain.
            Some(_) => {
                match std::str::from_utf8(value).ok().and_then(|text| text.get(value.len() - rest.len()..)) {
                    Some(text) => text.chars().for_each(|character| push_json_character(line, character)),
                    None => rest.iter().for_each(|&byte| push_json_character(line, char::from(byte))),
                }
                break;
            }
        }
    }
    line.push(b'"');
}

fn push_json_character(line: &mut Vec<u8>, character: char) {
    match character {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        '\u{2028}' => line.extend_from_slice(b"\\u2028"),
        '\u{2029}' => line.extend_from_slice(b"\\u2029"),
        // Control characters of both blocks are below U+0100.
        other if other.is_control() => push_hex(line, b"\\u00", other as u32 as u8),
        other => line.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Appends a number in decimal.
pub(crate) fn push_decimal(line: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        // A remainder of ten fits a byte.
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(value: &[u8], style: Style) -> String {
        let mut line = Vec::new();
        push_escaped(&mut line, value, style);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn quotes_backslashes_and_controls_are_escaped_as_the_style_says() {
        assert_eq!(escaped(b"a\"b\\c\nd \xff", Style::Hex), r#"a\"b\\c\x0Ad \xFF"#);
        assert_eq!(escaped(b"a b", Style::HexWord), r"a\x20b");
        assert_eq!(escaped(b"\"\n", Style::Json), r#"\"\u000A"#);
    }

    #[test]
    fn later_lines_of_a_message_are_indented_and_controls_escaped() {
        let mut line = Vec::new();
        push_lines(&mut line, "one\x1b[31m\ntwo\r\n\tthree\n");
        assert_eq!(String::from_utf8(line).unwrap(), "one\\x1B[31m\n  two\n  \tthree");
    }

    #[test]
    fn a_value_is_quoted_only_where_it_must_be() {
        let shown = |value| {
            let mut line = Vec::new();
            push_value(&mut line, value);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(shown("/a/b-c"), "/a/b-c");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a b=\"c\"\n"), r#""a b=\"c\"\n""#);
    }

    proptest! {
        #[test]
        fn a_json_string_reads_back_as_what_was_written(text: String) {
            let mut line = Vec::new();
            push_json(&mut line, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
            prop_assert!(!line.contains(&b'\n'));
        }

        #[test]
        fn bytes_that_are_not_utf8_make_valid_json_too(bytes: Vec<u8>) {
            let mut line = Vec::new();
            push_json(&mut line, &bytes);
            prop_assert!(serde_json::from_slice::<String>(&line).is_ok());
        }

        #[test]
        fn a_decimal_is_what_display_writes(number: u64) {
            let mut line = Vec::new();
            push_decimal(&mut line, number);
            prop_assert_eq!(String::from_utf8(line).unwrap(), number.to_string());
        }
    }
}
