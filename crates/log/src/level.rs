//! Gunicorn's level names, and what they are to syslog(3).

use slog::Level;

/// Reads one of Gunicorn's level names, in any case: `debug`, `info`, `warning`, `error`, `critical`.
pub fn parse_level(name: &str) -> Option<Level> {
    const NAMES: [(&str, Level); 5] = [
        ("debug", Level::Debug),
        ("info", Level::Info),
        ("warning", Level::Warning),
        ("error", Level::Error),
        ("critical", Level::Critical),
    ];
    NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|&(_, level)| level)
}

/// The name that Python's logging prints for the level.
pub(crate) fn name(level: Level) -> &'static str {
    match level {
        Level::Critical => "CRITICAL",
        Level::Error => "ERROR",
        Level::Warning => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

/// The journal's PRIORITY, see syslog(3).
pub(crate) fn priority(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gunicorns_names_are_levels_in_any_case_and_others_are_not() {
        assert_eq!(parse_level("CRITICAL"), Some(Level::Critical));
        assert_eq!(parse_level("warning"), Some(Level::Warning));
        assert_eq!(parse_level("warn"), None);
        assert_eq!(parse_level(""), None);
    }
}
