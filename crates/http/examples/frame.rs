//! Says how the engine frames streams, for comparison with other parsers: one stream per line of standard input, in
//! hexadecimal; one JSON object per line of standard output.
//!
//! `{"messages": [{"method": hex, "target": hex, "version": [1, 1], "fields": [[hex, hex]], "body": hex}],
//! "refused": rule or null, "closed": whether bytes were left unread}`
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../tests/wire/mod.rs"]
mod wire;

use rgunicorn_http::{HeaderMap, Policy, Trust};
use std::io::{BufRead, Write};
use wire::drive::{Answering, drive};
use wire::strict::Message;

fn main() -> std::io::Result<()> {
    // Names with `_` are kept, so that the lists of fields can be compared.
    let policy = Policy { header_map: HeaderMap::Dangerous, ..Policy::default() };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let stream = from_hex(line?.trim());
        let seen = drive(&policy, Trust::default(), Answering::Complete, [&stream[..]]);
        let messages: Vec<String> = seen.messages.iter().map(to_json).collect();
        let refused = seen.refused.map_or_else(|| "null".to_owned(), |rule| format!("\"{}\"", rule.id()));
        writeln!(
            out,
            "{{\"messages\": [{}], \"refused\": {refused}, \"closed\": {}}}",
            messages.join(", "),
            seen.closed
        )?;
    }
    Ok(())
}

fn to_json(message: &Message) -> String {
    let fields: Vec<String> =
        message.fields.iter().map(|(name, value)| format!("[\"{}\", \"{}\"]", to_hex(name), to_hex(value))).collect();
    format!(
        "{{\"method\": \"{}\", \"target\": \"{}\", \"version\": [{}, {}], \"fields\": [{}], \"body\": \"{}\"}}",
        to_hex(&message.method),
        to_hex(&message.target),
        message.version.0,
        message.version.1,
        fields.join(", "),
        to_hex(&message.body)
    )
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}
