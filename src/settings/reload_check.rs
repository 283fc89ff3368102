//! The entries of `reload_check`: PATH, PATH=STATUS, and both behind http://HOST or https://HOST.
//!
//! Owns the grammar. Knows no worker.

use rgunicorn_protocol::ReloadCheck;

/// One entry.
///
/// # Errors
/// What is wrong with it, a clause.
pub(super) fn parse(text: &str) -> Result<ReloadCheck, String> {
    let (url, status) = match text.rsplit_once('=') {
        Some((url, status)) if status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit()) => {
            let status = status.parse().ok().filter(|status| (200..600).contains(status));
            (url, Some(status.ok_or_else(|| format!("reload_check = {text:?}: a status is from 200 to 599"))?))
        }
        Some(_) | None => (text, None),
    };
    let (https, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (false, Some(rest)),
        (None, Some(rest)) => (true, Some(rest)),
        (None, None) => (false, None),
    };
    let (host, target) = match rest {
        Some(rest) => {
            let at = rest.find('/').unwrap_or(rest.len());
            let (host, target) = rest.split_at(at);
            if host.is_empty() {
                return Err(format!("reload_check = {text:?}: the host is missing"));
            }
            (Some(host.to_owned()), if target.is_empty() { "/" } else { target })
        }
        None => (None, url),
    };
    if !target.starts_with('/') {
        return Err(format!(
            "reload_check = {text:?}: a path begins with /; allowed: PATH, PATH=STATUS, http://HOST/PATH, https://HOST/PATH"
        ));
    }
    if let Some(wrong) = url.chars().find(|character| !character.is_ascii_graphic()) {
        return Err(format!("reload_check = {text:?}: {wrong:?} must be percent-encoded"));
    }
    Ok(ReloadCheck { host, https, target: target.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_a_status_and_a_host() {
        let check = |host: Option<&str>, https, target: &str, status| ReloadCheck {
            host: host.map(str::to_owned),
            https,
            target: target.into(),
            status,
        };
        assert_eq!(parse("/health"), Ok(check(None, false, "/health", None)));
        assert_eq!(parse("/health=204"), Ok(check(None, false, "/health", Some(204))));
        assert_eq!(parse("/find?q=a"), Ok(check(None, false, "/find?q=a", None)));
        assert_eq!(parse("/find?id=200=404"), Ok(check(None, false, "/find?id=200", Some(404))));
        assert_eq!(parse("https://example.org/login"), Ok(check(Some("example.org"), true, "/login", None)));
        assert_eq!(parse("http://example.org:8000=301"), Ok(check(Some("example.org:8000"), false, "/", Some(301))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in
            [("health", "begins with /"), ("/a b", "percent"), ("/x=999", "200 to 599"), ("http:///x", "host")]
        {
            let wrong = parse(text).unwrap_err();
            assert!(wrong.contains(word) && wrong.contains(text), "{wrong}");
        }
    }
}
