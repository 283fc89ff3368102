use super::*;
use crate::access::Lookup;
use proptest::prelude::*;
use std::borrow::Cow;
use std::time::Duration;

/// Every header and variable has the same value; which one was asked for is in front of it.
struct Everywhere(Vec<u8>);

impl Everywhere {
    fn named(&self, kind: &str, name: &str) -> Option<Cow<'_, [u8]>> {
        if name.starts_with("no-") {
            return None;
        }
        Some(Cow::Owned([kind.as_bytes(), name.as_bytes(), b":", &self.0].concat()))
    }
}

impl Lookup for Everywhere {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            "authorization" => Some(Cow::Borrowed(b"Basic dXNlcjpzZWNyZXQ=")),
            "referer" | "user-agent" => Some(Cow::Borrowed(&self.0)),
            other => self.named("i/", other),
        }
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.named("o/", name)
    }

    fn environ(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.named("e/", name)
    }
}

fn request<'a>(lookup: &'a dyn Lookup) -> AccessRecord<'a> {
    AccessRecord {
        remote_addr: b"192.0.2.7",
        method: b"GET",
        target: b"/a%20b?c=d",
        protocol: b"HTTP/1.1",
        script_name: b"",
        status: 200,
        bytes: 1234,
        duration: Duration::new(90_061, 5_006_007),
        queue: Duration::from_micros(17),
        request_id: b"7f",
        lookup,
    }
}

fn line(format: &str, request: &AccessRecord<'_>) -> String {
    let mut line = Vec::new();
    AccessFormat::parse(format).unwrap().push(&mut line, request, 42);
    String::from_utf8(line).unwrap()
}

fn shown(format: &str) -> String {
    line(format, &request(&Everywhere(b"value".to_vec())))
}

#[test]
fn every_atom_of_gunicorn_has_its_value() {
    for (format, expected) in [
        ("%(h)s", "192.0.2.7"),
        ("%(l)s", "-"),
        ("%(u)s", "user"),
        ("%(r)s", "GET /a%20b?c=d HTTP/1.1"),
        ("%(m)s", "GET"),
        ("%(U)s", "/a b"),
        ("%(q)s", "c=d"),
        ("%(H)s", "HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(B)s", "1234"),
        ("%(b)s", "1234"),
        ("%(f)s", "value"),
        ("%(a)s", "value"),
        ("%(T)s", "90061"),
        ("%(M)s", "90061005"),
        ("%(D)d", "90061005006"),
        ("%(L)s", "90061.005006"),
        ("%(p)s", "<42>"),
        ("%({x-one}i)s", "i/x-one:value"),
        ("%({x-two}o)s", "o/x-two:value"),
        ("%({remote_user}e)s", "e/remote_user:value"),
        ("100%%", "100%"),
    ] {
        assert_eq!(shown(format), expected, "{format}");
    }
    let time = shown("%(t)s");
    assert!(time.starts_with('[') && time.ends_with(']') && time.len() == 28, "{time}");
}

#[test]
fn names_in_braces_have_no_case_and_single_letters_have() {
    assert_eq!(shown("%({X-One}I)s"), "i/x-one:value");
    assert_eq!(shown("%(h)s %(H)s %(R)s"), "192.0.2.7 HTTP/1.1 -");
}

#[test]
fn what_is_unknown_or_missing_is_a_dash() {
    assert_eq!(shown("%(nonsense)s %(x)s %({a}z)s %({open)s"), "- - - -");
    assert_eq!(shown("%({no-such}i)s %({no-such}o)s %({no-such}e)s"), "- - -");
    let nothing = AccessRecord {
        remote_addr: b"",
        method: b"",
        target: b"",
        protocol: b"",
        status: 400,
        ..request(&crate::NoLookup)
    };
    assert_eq!(line("%(h)s %(u)s \"%(r)s\" %(m)s %(U)s %(s)s '%(q)s'", &nothing), "- - \"-\" - - 400 ''");
}

#[test]
fn the_default_format_is_gunicorns() {
    let line = shown(DEFAULT_ACCESS_LOG_FORMAT);
    let (before, rest) = line.split_once(" [").unwrap();
    let (_, after) = rest.split_once("] ").unwrap();
    assert_eq!(before, "192.0.2.7 - user");
    assert_eq!(after, "\"GET /a%20b?c=d HTTP/1.1\" 200 1234 \"value\" \"value\"");
}

#[test]
fn columns_are_filled_and_cut_as_in_python() {
    assert_eq!(shown("%(m)6s|%(m)-6s|%(B)08d|%(m).2s|%(s)2s"), "   GET|GET   |00001234|GE|200");
}

#[test]
fn a_cut_never_leaves_half_an_escape() {
    let lookup = Everywhere(b"a\"\n\"".to_vec());
    for (most, expected) in [(1, "a"), (2, r#"a\""#), (3, r#"a\"\x0A"#), (4, r#"a\"\x0A\""#)] {
        assert_eq!(line(&format!("%(a).{most}s"), &request(&lookup)), expected);
    }
}

#[test]
fn a_json_template_is_escaped_as_json() {
    let lookup = Everywhere(b"\",\"forged\":\"\xff\n".to_vec());
    let line = line(r#"{"agent": "%(a)s", "status": %(s)s}"#, &request(&lookup));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["agent"], "\",\"forged\":\"\u{ff}\n");
    assert!(value.get("forged").is_none());
}

#[test]
fn a_format_that_python_would_not_take_is_refused_with_its_place() {
    for (format, at) in [
        ("%s", 0),
        ("abc %", 4),
        ("%(h", 0),
        ("%(h)", 0),
        ("ab %(h)x", 3),
        ("%(h)d", 0),
        ("%(h)999999999999999999999s", 0),
        ("a\nb", 1),
    ] {
        assert_eq!(AccessFormat::parse(format).map_err(|error| error.at), Err(at), "{format}");
    }
    assert!(AccessFormat::parse("%(h)s\n").is_ok());
}

#[test]
fn a_format_says_what_it_asks_for() {
    let format = AccessFormat::parse("%({a}i)s").unwrap();
    assert!(!format.needs_environ() && !format.needs_response_headers());
    assert!(AccessFormat::parse("%({a}e)s").unwrap().needs_environ());
    assert!(AccessFormat::parse("%({a}o)s").unwrap().needs_response_headers());
}

/// Quotes that no backslash escapes.
fn bare_quotes(line: &[u8]) -> usize {
    let mut count = 0;
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => count += 1,
            _ => {}
        }
    }
    count
}

proptest! {
    #[test]
    fn no_client_can_break_a_line_or_end_a_quote(
        value: Vec<u8>,
        method: Vec<u8>,
        target: Vec<u8>,
        protocol: Vec<u8>,
        width in 0_usize..40,
        most in 0_usize..40,
    ) {
        let lookup = Everywhere(value);
        let request =
            AccessRecord { method: &method, target: &target, protocol: &protocol, ..request(&lookup) };
        let template = format!(
            "\"%(r)s\" \"%(m)s\" \"%(U)s\" \"%(q)s\" \"%(H)s\" \"%(f)s\" \"%(a){width}.{most}s\" \
             \"%({{x}}i)-{width}s\" \"%({{y}}o).{most}s\" \"%({{z}}e)s\" %(u)s"
        );
        for template in [template.clone(), format!("{{{template}}}")] {
            let mut line = Vec::new();
            AccessFormat::parse(&template).unwrap().push(&mut line, &request, 1);
            prop_assert!(line.iter().all(|byte| (0x20..0x7f).contains(byte)));
            prop_assert_eq!(bare_quotes(&line), 20);
        }
    }

    #[test]
    fn no_format_makes_the_parser_panic(format: String) {
        if let Ok(format) = AccessFormat::parse(&format) {
            format.push(&mut Vec::new(), &request(&crate::NoLookup), 1);
        }
    }
}
