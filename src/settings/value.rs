//! Values: as a source gives them ([`Raw`]), and as the layers keep them (figment's), read by a setting's kind.
//!
//! Knows kinds, not settings. Invariant: what [`read`] returns has one form per kind, whatever the source was: whole
//! numbers, seconds as floats, lists as lists of texts, `NAME=VALUE` texts for pairs and headers.

use super::bind::Bind;
use super::fault::hidden;
use super::setting::{Kind, Setting};
use super::words::check_name;
use figment::value::{Tag, Value};
use rgunicorn_log::AccessFormat;
use std::fmt;
use std::path::Path;

/// The longest duration that can be set: a year, in seconds.
const YEAR: f64 = 366.0 * 86_400.0;

/// A value as its source gives it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// From the command line, the environment, or a TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float.
    Float(f64),
    /// A TOML boolean, or a flag without a value.
    Bool(bool),
    /// A TOML array, or a repeated flag.
    List(Vec<Self>),
    /// A TOML table.
    Table(Vec<(String, Self)>),
    /// A TOML date or time; no setting takes one.
    Date(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(out, "{text:?}"),
            Self::Integer(number) => write!(out, "{number}"),
            Self::Float(number) => write!(out, "{number:?}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Date(date) => write!(out, "{date}"),
            Self::List(items) => {
                out.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(out, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                out.write_str("]")
            }
            Self::Table(entries) => {
                out.write_str("{")?;
                for (index, (name, value)) in entries.iter().enumerate() {
                    write!(out, "{} {name} = {value}", if index == 0 { "" } else { "," })?;
                }
                out.write_str(" }")
            }
        }
    }
}

/// What kind of values are allowed, a noun phrase.
pub(crate) fn allowed(kind: Kind) -> String {
    match kind {
        Kind::Text => "a text".to_owned(),
        Kind::Path { dash: false } => "a path".to_owned(),
        Kind::Path { dash: true } => "a path, or - for the standard stream".to_owned(),
        Kind::Integer { min, max: i64::MAX } => format!("a whole number from {min}"),
        Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Size => "a number of bytes, also with K, M, G or KiB, MiB, GiB (64KiB)".to_owned(),
        Kind::Seconds { min } => format!("a number of seconds from {min}, fractions too, without a unit"),
        Kind::Mode => "permission bits from 0 to 0o777, such as 0o022".to_owned(),
        Kind::Switch => "true or false".to_owned(),
        Kind::Choice(choices) => choices.join(", "),
        Kind::ChoiceOrSwitch { choices, on, off } => {
            format!("{}; true means {on}, false means {off}", choices.join(", "))
        }
        Kind::Pool => "sync, gthread, gevent, asgi, auto".to_owned(),
        Kind::Addresses => {
            "HOST, HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@ABSTRACT, fd://NUMBER, fdname:NAME".to_owned()
        }
        Kind::List => "texts".to_owned(),
        Kind::Networks => "IP addresses and networks (10.0.0.0/8), or *".to_owned(),
        Kind::Pairs => "NAME=VALUE".to_owned(),
        Kind::Headers => "a table of header names and values, { X-Forwarded-Proto = \"https\" }".to_owned(),
        Kind::LogTemplate => "text with Gunicorn's atoms, such as %(h)s and %({x-request-id}i)s".to_owned(),
        Kind::UrlPath => "a path that begins with /, without a query".to_owned(),
        Kind::Hook => "nothing".to_owned(),
        Kind::Table => "a table".to_owned(),
    }
}

/// Reads a value by its kind. The error is a clause that follows the value: `is not a whole number`.
pub(crate) fn read(kind: Kind, raw: &Raw) -> Result<Value, String> {
    match kind {
        Kind::Text => text(raw).map(optional),
        Kind::Path { .. } => {
            let path = text(raw)?;
            if path.contains('\0') { Err("contains a NUL".to_owned()) } else { Ok(optional(path)) }
        }
        Kind::Integer { min, max } => {
            let number = integer(raw)?;
            if number < min {
                Err("is too small".to_owned())
            } else if number > max {
                Err("is too large".to_owned())
            } else {
                Ok(Value::from(number))
            }
        }
        Kind::Size => size(raw).map(Value::from),
        Kind::Seconds { min } => {
            let seconds = seconds(raw)?;
            if seconds < min {
                Err("is too small".to_owned())
            } else if seconds > YEAR {
                Err("is longer than a year".to_owned())
            } else {
                Ok(Value::from(seconds))
            }
        }
        Kind::Mode => mode(raw).map(Value::from),
        Kind::Switch => switch(raw).map(Value::from),
        Kind::Choice(choices) => choice(choices, raw),
        Kind::ChoiceOrSwitch { choices, on, off } => match switch(raw) {
            Ok(value) => Ok(Value::from(if value { on } else { off })),
            Err(_) => choice(choices, raw),
        },
        Kind::Pool => pool(&text(raw)?).map(Value::from),
        Kind::Addresses => {
            let addresses = list(raw)?;
            if addresses.is_empty() {
                return Err("names no address".to_owned());
            }
            for address in &addresses {
                // The folder does not matter here: whether an address is one does not depend on it.
                Bind::parse(address, Path::new("/")).map_err(|what| {
                    if addresses.len() == 1 {
                        format!("is no address: {what}")
                    } else {
                        format!("is wrong at {address:?}: {what}")
                    }
                })?;
            }
            Ok(texts(addresses))
        }
        Kind::List => list(raw).map(texts),
        Kind::Networks => {
            let networks = list(raw)?;
            match networks.iter().find(|network| !is_network(network)) {
                Some(wrong) => {
                    Err(format!("is wrong at {wrong:?}: that is neither an IP address, nor a network, nor *"))
                }
                None => Ok(texts(networks)),
            }
        }
        Kind::Pairs => pairs(raw).map(texts),
        Kind::Headers => headers(raw).map(texts),
        Kind::LogTemplate => {
            let template = text(raw)?;
            match AccessFormat::parse(&template) {
                Ok(_) => Ok(Value::from(template)),
                Err(error) => Err(format!("is no template: {error}")),
            }
        }
        Kind::UrlPath => {
            let path = text(raw)?;
            let fine =
                path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
            if fine || path.is_empty() { Ok(Value::from(path)) } else { Err("is not the path of a request".to_owned()) }
        }
        Kind::Hook => Err("is a Python function".to_owned()),
        Kind::Table => match raw {
            Raw::Table(entries) => {
                Ok(texts(entries.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()))
            }
            Raw::Text(text) if text.is_empty() => Ok(texts(Vec::new())),
            Raw::Text(_) | Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Date(_) => {
                Err("is not a table".to_owned())
            }
        },
    }
}

/// No value.
pub(crate) fn unset() -> Value {
    Value::Empty(Tag::Default, figment::value::Empty::None)
}

/// A list of texts.
pub(crate) fn texts(items: Vec<String>) -> Value {
    Value::from(items)
}

/// A setting's value as a TOML file would have it; secrets are left out.
pub(crate) fn displayed(setting: &Setting, value: &Value) -> Option<String> {
    if hidden(setting) {
        let names = value.as_array()?.iter().filter_map(Value::as_str);
        let names: Vec<String> =
            names.map(|pair| quoted(&format!("{}=...", pair.split('=').next().unwrap_or_default()))).collect();
        return Some(format!("[{}]", names.join(", ")));
    }
    match (setting.kind, value) {
        (Kind::Mode, Value::Num(_, bits)) => bits.to_i128().map(|bits| format!("0o{bits:03o}")),
        (Kind::Headers | Kind::Table, Value::Array(_, pairs)) => {
            let pairs: Vec<String> = pairs
                .iter()
                .filter_map(Value::as_str)
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| format!("{name} = {}", quoted(value)))
                .collect();
            Some(if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) })
        }
        (_, value) => shown(value),
    }
}

/// As TOML would have it.
pub(crate) fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Empty(..) => None,
        Value::String(_, text) => Some(quoted(text)),
        Value::Char(_, letter) => Some(quoted(&letter.to_string())),
        Value::Bool(_, value) => Some(value.to_string()),
        Value::Num(_, number) => {
            Some(match number.to_i128().or_else(|| number.to_u128().and_then(|n| n.try_into().ok())) {
                Some(whole) => whole.to_string(),
                None => match number.to_f64() {
                    Some(seconds) if seconds.fract() == 0.0 => format!("{seconds:.0}"),
                    Some(seconds) => seconds.to_string(),
                    None => return None,
                },
            })
        }
        Value::Array(_, items) => Some(format!("[{}]", items.iter().filter_map(shown).collect::<Vec<_>>().join(", "))),
        Value::Dict(_, entries) => {
            let entries: Vec<String> = entries
                .iter()
                .filter_map(|(name, value)| Some(format!("{} = {}", quoted(name), shown(value)?)))
                .collect();
            Some(format!("{{ {} }}", entries.join(", ")))
        }
    }
}

/// A TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

fn optional(text: String) -> Value {
    if text.is_empty() { unset() } else { Value::from(text) }
}

fn text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Text(text) => Ok(text.clone()),
        // A user or a group may be a number.
        Raw::Integer(number) => Ok(number.to_string()),
        Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Table(_) | Raw::Date(_) => Err("is not a text".to_owned()),
    }
}

fn integer(raw: &Raw) -> Result<i64, String> {
    match raw {
        Raw::Integer(number) => Ok(*number),
        Raw::Text(text) => text.trim().parse::<i64>().map_err(|_| "is not a whole number".to_owned()),
        Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Table(_) | Raw::Date(_) => {
            Err("is not a whole number".to_owned())
        }
    }
}

fn size(raw: &Raw) -> Result<i64, String> {
    let wrong = || "is not a number of bytes".to_owned();
    let bytes = match raw {
        Raw::Integer(number) => *number,
        Raw::Text(text) => {
            let text = text.trim();
            let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
            let (number, unit) = text.split_at(end);
            let number: i64 = number.parse().map_err(|_| wrong())?;
            let factor: i64 = match unit.trim().to_ascii_lowercase().as_str() {
                "" | "b" => 1,
                "k" | "kib" => 1 << 10,
                "m" | "mib" => 1 << 20,
                "g" | "gib" => 1 << 30,
                "t" | "tib" => 1 << 40,
                _ => return Err(wrong()),
            };
            number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())?
        }
        Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Table(_) | Raw::Date(_) => return Err(wrong()),
    };
    if bytes < 0 { Err("is too small".to_owned()) } else { Ok(bytes) }
}

fn seconds(raw: &Raw) -> Result<f64, String> {
    let number = match raw {
        Raw::Integer(number) => Some(*number as f64),
        Raw::Float(number) => Some(*number),
        Raw::Text(text) => text.trim().parse().ok(),
        Raw::Bool(_) | Raw::List(_) | Raw::Table(_) | Raw::Date(_) => None,
    };
    number.filter(|number| number.is_finite()).ok_or_else(|| "is not a number of seconds".to_owned())
}

/// As Gunicorn's `auto_int`: text with a leading 0 is octal, 0x hexadecimal, else decimal.
fn mode(raw: &Raw) -> Result<i64, String> {
    let wrong = || "is not a set of permission bits".to_owned();
    let bits = match raw {
        Raw::Integer(number) => *number,
        Raw::Text(text) => {
            let text = text.trim().to_ascii_lowercase();
            match text.strip_prefix('0') {
                Some("") => 0,
                Some(rest) => match rest.strip_prefix('x') {
                    Some(digits) => i64::from_str_radix(digits, 16),
                    None => i64::from_str_radix(rest.strip_prefix('o').unwrap_or(rest), 8),
                }
                .map_err(|_| wrong())?,
                None => text.parse().map_err(|_| wrong())?,
            }
        }
        Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Table(_) | Raw::Date(_) => return Err(wrong()),
    };
    if (0..=0o777).contains(&bits) { Ok(bits) } else { Err("is out of range".to_owned()) }
}

fn switch(raw: &Raw) -> Result<bool, String> {
    let wrong = || "is neither true nor false".to_owned();
    match raw {
        Raw::Bool(value) => Ok(*value),
        Raw::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" | "y" => Ok(true),
            "false" | "no" | "off" | "0" | "n" | "" => Ok(false),
            _ => Err(wrong()),
        },
        Raw::Integer(_) | Raw::Float(_) | Raw::List(_) | Raw::Table(_) | Raw::Date(_) => Err(wrong()),
    }
}

fn choice(choices: &[&str], raw: &Raw) -> Result<Value, String> {
    let word = text(raw)?.trim().to_ascii_lowercase();
    if choices.contains(&word.as_str()) { Ok(Value::from(word)) } else { Err("is none of its words".to_owned()) }
}

/// The pool that a name or a worker class of Gunicorn's world stands for.
fn pool(text: &str) -> Result<&'static str, String> {
    match text.trim().strip_prefix("egg:gunicorn#").unwrap_or(text.trim()) {
        "auto" => Ok("auto"),
        "sync" | "gunicorn.workers.sync.SyncWorker" => Ok("sync"),
        "gthread" | "gunicorn.workers.gthread.ThreadWorker" => Ok("gthread"),
        "gevent" | "gevent_wsgi" | "gevent_pywsgi" | "gunicorn.workers.ggevent.GeventWorker" => Ok("gevent"),
        // What these classes do for an ASGI application under Gunicorn, the asgi pool does here.
        "asgi"
        | "gunicorn.workers.gasgi.ASGIWorker"
        | "uvicorn.workers.UvicornWorker"
        | "uvicorn.workers.UvicornH11Worker"
        | "uvicorn_worker.UvicornWorker"
        | "uvicorn_worker.UvicornH11Worker" => Ok("asgi"),
        "eventlet" => Err("was removed from Gunicorn 26; gevent is the nearest pool".to_owned()),
        "tornado" => Err("is not supported; asgi serves Tornado's successors, sync and gthread serve WSGI".to_owned()),
        name if name.contains(['.', ':', '#']) => {
            Err("is a Python worker class; rgunicorn brings its own pools in their place".to_owned())
        }
        _ => Err("is no pool".to_owned()),
    }
}

fn list(raw: &Raw) -> Result<Vec<String>, String> {
    match raw {
        // As Gunicorn's validate_list_string: one text is split at its commas, a list is taken as it is.
        Raw::Text(text) => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
        Raw::List(items) => items.iter().map(|item| text(item).map(|text| text.trim().to_owned())).collect(),
        Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::Table(_) | Raw::Date(_) => {
            Err("is neither a text nor a list of texts".to_owned())
        }
    }
}

fn is_network(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return false;
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|bits| bits <= longest))
}

/// Values may be secrets: an error names the variable, never its value.
fn pairs(raw: &Raw) -> Result<Vec<String>, String> {
    let pairs: Vec<String> = match raw {
        Raw::Table(entries) => entries
            .iter()
            .map(|(name, value)| text(value).map(|value| format!("{name}={value}")))
            .collect::<Result<_, _>>()?,
        Raw::Text(text) => text.split(',').filter(|item| !item.trim().is_empty()).map(str::to_owned).collect(),
        Raw::List(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::Date(_) => {
            return Err("is not a list of NAME=VALUE".to_owned());
        }
    };
    for (index, pair) in pairs.iter().enumerate() {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("is wrong at its item {}: there is no = in it", index + 1));
        };
        check_name(name).map_err(|what| format!("is wrong at its item {}: {what}", index + 1))?;
        if value.contains('\0') {
            return Err(format!("is wrong at its item {}: the value of {name} contains a NUL", index + 1));
        }
    }
    Ok(pairs)
}

fn headers(raw: &Raw) -> Result<Vec<String>, String> {
    let Raw::Table(entries) = raw else {
        // The default, and what a variable could give: NAME=VALUE,...
        let Raw::Text(text) = raw else { return Err("is not a table".to_owned()) };
        let entries: Option<Vec<(String, Raw)>> = text
            .split(',')
            .filter(|item| !item.trim().is_empty())
            .map(|item| {
                item.split_once('=').map(|(name, value)| (name.trim().to_owned(), Raw::Text(value.trim().to_owned())))
            })
            .collect();
        return headers(&Raw::Table(entries.ok_or("is not a table")?));
    };
    let mut pairs = entries
        .iter()
        .map(|(name, value)| {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(format!("is wrong at {name:?}: that is not a header's name"));
            }
            // Gunicorn's users write the names with underscores or dashes, in any case.
            Ok(format!("{}={}", name.to_ascii_uppercase().replace('_', "-"), text(value)?))
        })
        .collect::<Result<Vec<_>, String>>()?;
    // A TOML table has no order; neither have these.
    pairs.sort();
    Ok(pairs)
}
