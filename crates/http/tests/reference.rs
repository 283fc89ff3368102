//! Keeps `docs/http-rules.md` what the table of rules says. `RGUNICORN_WRITE_DOCS=1 cargo test -p rgunicorn-http --test
//! reference` writes it anew.
#![allow(missing_docs, clippy::unwrap_used)]

use rgunicorn_http::Rule;
use std::fmt::Write;

const INTRODUCTION: &str = "\
# What rgunicorn refuses

<!-- Made from crates/http/src/rules.rs: RGUNICORN_WRITE_DOCS=1 cargo test -p rgunicorn-http --test reference -->

A request that breaks one of these rules is not given to the application. The client gets the status and the rule's
text, and the connection is closed; the log gets one line with the rule's id and the client's address. A rule's source
is an RFC and its section, or the setting that makes it.

What is deliberately *not* refused: a request target keeps its percent-encoding as it was sent, and a `%` that begins
no escape, `%00` or `%2F` are the application's business, as they are with Gunicorn. A higher minor version
than HTTP/1.1 is served as HTTP/1.1. An `Upgrade` that nobody takes is ignored. Trailers are checked and dropped.

| rule | status | what is wrong | source |
|---|---|---|---|
";

#[test]
fn the_page_of_rules_is_what_the_table_says() {
    let mut page = INTRODUCTION.to_owned();
    for rule in Rule::ALL {
        writeln!(page, "| `{}` | {} | {} | {} |", rule.id(), rule.status(), rule.text(), rule.source()).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http-rules.md");
    if std::env::var_os("RGUNICORN_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(written, page, "docs/http-rules.md is not what rules.rs says; see the head of this test");
}
