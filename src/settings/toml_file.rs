//! A TOML file of settings: its keys are names of settings, its values keep the line they stand on.

use super::access::unreadable;
use super::fault::{Fault, Origin, did_you_mean};
use super::layers::Given;
use super::table::{SETTINGS, find};
use super::text_file;
use super::value::Raw;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Reads a file. Keys that are no settings, and settings that are given twice by two names, are faults; values are not
/// looked at.
pub(crate) fn read(path: &Path) -> Result<Vec<Given>, Vec<Fault>> {
    let whole = || Origin::File { path: path.to_owned(), line: None };
    let text = text_file::read(path).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::PermissionDenied => unreadable(path),
            _ => None,
        };
        let why = why.map_or_else(|| format!(": {}", reason(&error)), |why| format!(" {why}"));
        vec![Fault::new(whole(), format!("the settings file cannot be read{why}"))]
    })?;
    parse(&text, path)
}

/// Reads a file's text; `path` is for the faults.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Vec<Given>, Vec<Fault>> {
    let at = |offset: usize| Origin::File { path: path.to_owned(), line: Some(line(text, offset)) };
    let table = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        // The message may go over several lines; the first says what is wrong.
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        vec![Fault::new(at(start), format!("this is not TOML: {message}"))]
    })?;
    let mut givens: Vec<Given> = Vec::new();
    let mut faults = Vec::new();
    for (key, value) in table.get_ref() {
        let origin = at(key.span().start);
        let name: &str = key.get_ref();
        match find(name) {
            None => faults.push(Fault::new(origin, format!("{name} is not a setting{}", suggestion(name)))),
            Some(setting) if ["config", "instance"].contains(&setting.name) => faults.push(Fault::new(
                origin,
                format!("{name} says which file is read, so it cannot stand in the file; use the command line"),
            )),
            Some(setting) => match givens.iter().find(|given| given.setting.name == setting.name) {
                Some(other) => faults.push(Fault::new(
                    origin,
                    format!(
                        "{} is already set in {}; these mean the same: {}",
                        setting.name,
                        other.origin,
                        both(setting.name, setting.aliases).join(", ")
                    ),
                )),
                None => givens.push(Given { setting, origin, raw: raw(value.get_ref()) }),
            },
        }
    }
    faults.sort_by(|left, right| left.origin.cmp(&right.origin));
    if faults.is_empty() { Ok(givens) } else { Err(faults) }
}

fn both(name: &'static str, aliases: &'static [&'static str]) -> Vec<&'static str> {
    [name].into_iter().chain(aliases.iter().copied()).collect()
}

/// People write the flag's name too: `access_logfile` for `accesslog`.
fn suggestion(key: &str) -> String {
    did_you_mean(
        key,
        SETTINGS.iter().flat_map(|setting| {
            [setting.name]
                .into_iter()
                .chain(setting.aliases.iter().copied())
                .chain(setting.long())
                .map(|spelling| (spelling, setting.name))
        }),
    )
}

fn line(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            // Too large for TOML's 64 bits: told as the text that it is.
            Err(_) => Raw::Text(number.as_str().to_owned()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Raw::Float(number),
            Err(_) => Raw::Text(number.as_str().to_owned()),
        },
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Datetime(date) => Raw::Date(date.to_string()),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(entries) => {
            Raw::Table(entries.iter().map(|(name, value)| (name.get_ref().to_string(), raw(value.get_ref()))).collect())
        }
    }
}

/// An I/O error in words, without Rust's "(os error 2)".
pub(crate) fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        parse(text, Path::new("/etc/rgunicorn/app.toml")).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_keep_their_types_and_lines() {
        let text = "# comment\nworkers = 4\n\nbind = [\n  '127.0.0.1:8000',\n]\ntimeout = 2.5\npreload_app = true\numask = 0o027\n";
        let mut givens = parse(text, Path::new("a.toml")).unwrap();
        givens.sort_by(|left, right| left.origin.cmp(&right.origin));
        let seen: Vec<(&str, String, Raw)> =
            givens.into_iter().map(|given| (given.setting.name, given.origin.to_string(), given.raw)).collect();
        assert_eq!(
            seen,
            [
                ("workers", "a.toml:2".to_owned(), Raw::Integer(4)),
                ("bind", "a.toml:4".to_owned(), Raw::List(vec![Raw::Text("127.0.0.1:8000".to_owned())])),
                ("timeout", "a.toml:7".to_owned(), Raw::Float(2.5)),
                ("preload_app", "a.toml:8".to_owned(), Raw::Bool(true)),
                ("umask", "a.toml:9".to_owned(), Raw::Integer(0o027)),
            ]
        );
    }

    #[test]
    fn unknown_keys_are_reported_together_with_what_was_meant() {
        assert_eq!(
            faults("workes = 4\naccess_logfile = '-'\nqwertz = 1\nconfig = 'b.toml'\n"),
            [
                "/etc/rgunicorn/app.toml:1: workes is not a setting. Did you mean workers?",
                "/etc/rgunicorn/app.toml:2: access_logfile is not a setting. Did you mean accesslog?",
                "/etc/rgunicorn/app.toml:3: qwertz is not a setting",
                "/etc/rgunicorn/app.toml:4: config says which file is read, so it cannot stand in the file; use the \
                 command line",
            ]
        );
    }

    #[test]
    fn a_setting_under_two_names_is_refused() {
        assert_eq!(
            faults("app = 'a:b'\nwsgi_app = 'c:d'\n"),
            ["/etc/rgunicorn/app.toml:2: app is already set in /etc/rgunicorn/app.toml:1; these mean the same: app, \
                 wsgi_app"]
        );
    }

    #[test]
    fn text_that_is_not_toml_is_named_by_its_line() {
        let faults = faults("workers = 4\nbind = \n");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("/etc/rgunicorn/app.toml:2: this is not TOML: "), "{faults:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let faults = read(Path::new("/nowhere/app.toml")).unwrap_err();
        assert_eq!(
            faults[0].to_string(),
            "/nowhere/app.toml: the settings file cannot be read: No such file or directory"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z_]{0,8} ?= ?.{0,30}\n?.{0,30}") {
            let _ = parse(&text, Path::new("a.toml"));
        }
    }
}
