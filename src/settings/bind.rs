//! `bind`: what to listen on, typed.
//!
//! Gunicorn's spellings (`gunicorn.util.parse_address`): `HOST`, `HOST:PORT`, `:PORT`, `[V6]:PORT`, `tcp://...`,
//! `unix:PATH`, `unix://PATH`, `unix:@NAME` (abstract), `fd://N`; and ours, `fdname:NAME`, for a socket that systemd
//! passes under that FileDescriptorName. Knows no socket: names are resolved and sockets opened elsewhere.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Gunicorn's port where none is given.
pub(crate) const DEFAULT_PORT: u16 = 8000;

/// One address of `bind`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Bind {
    /// TCP. The host is a name or an address without brackets; empty means all addresses.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 lets the kernel choose.
        port: u16,
    },
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// A unix socket in the abstract namespace, without the leading NUL or `@`.
    UnixAbstract(String),
    /// A listening socket inherited under this number.
    Fd(i32),
    /// A listening socket that systemd passes under this FileDescriptorName.
    FdName(String),
}

impl fmt::Display for Bind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(out, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(out, "unix:@{name}"),
            Self::Fd(number) => write!(out, "fd://{number}"),
            Self::FdName(name) => write!(out, "fdname:{name}"),
        }
    }
}

impl Bind {
    /// Reads one address; a relative unix path is taken from `directory`. The error is a clause: what is wrong with the
    /// value.
    pub(crate) fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return parse_unix(path.strip_prefix("//").unwrap_or(path), directory);
        }
        if let Some(number) = text.strip_prefix("fd://") {
            return match number.parse::<i32>() {
                Ok(number) if number >= 0 => Ok(Self::Fd(number)),
                Ok(_) | Err(_) => Err(format!("\"{number}\" is not the number of a file descriptor")),
            };
        }
        if let Some(name) = text.strip_prefix("fdname:") {
            return if name.is_empty() || name.contains(':') {
                Err("fdname: wants the FileDescriptorName= of a systemd socket".to_owned())
            } else {
                Ok(Self::FdName(name.to_owned()))
            };
        }
        parse_tcp(text.strip_prefix("tcp://").unwrap_or(text))
    }
}

fn parse_unix(path: &str, directory: &Path) -> Result<Bind, String> {
    // Gunicorn's spelling of an abstract name is a literal NUL, which a TOML file can hold and a command line can
    // spell only as the four characters below.
    let name = ["@", "\0", "\\0", "\\x00"].iter().find_map(|prefix| path.strip_prefix(prefix));
    // sun_path has 108 bytes; a path needs one for its end, an abstract name one for its beginning (unix(7)).
    let longest = 107;
    match name {
        Some("") => Err("the abstract name is empty".to_owned()),
        Some(name) if name.len() > longest => Err(format!("the name is longer than {longest} bytes")),
        Some(name) => Ok(Bind::UnixAbstract(name.to_owned())),
        None if path.is_empty() => Err("the path is empty".to_owned()),
        None if path.contains('\0') => Err("the path contains a NUL".to_owned()),
        None => {
            let path = directory.join(path);
            if path.as_os_str().len() > longest {
                return Err(format!("the path {} is longer than {longest} bytes", path.display()));
            }
            Ok(Bind::Unix(path))
        }
    }
}

fn parse_tcp(text: &str) -> Result<Bind, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, after)) = rest.split_once(']') else {
                return Err("the closing ] is missing".to_owned());
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() && !host.contains('%') {
                return Err(format!("\"{host}\" is not an IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(format!("\"{after}\" after the ] is not a port")),
            }
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => {
            return Err(format!("an IPv6 address needs brackets: [{text}]:{DEFAULT_PORT}"));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None if text.is_empty() => return Err("it is empty".to_owned()),
            // As a host it would be an address in inet_aton(3)'s spelling, 0.0.x.y: nobody means that.
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(format!("a port alone is written 127.0.0.1:{text}, or :{text} for all addresses"));
            }
            None => (text, None),
        },
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => number,
            Ok(_) | Err(_) => return Err(format!("\"{port}\" is not a port (0 to 65535)")),
        },
    };
    if host.contains('/') {
        return Err(format!("\"{host}\" is not a host; a unix socket is written unix:{text}"));
    }
    if host.contains(char::is_whitespace) {
        return Err(format!("\"{host}\" is not a host"));
    }
    Ok(Bind::Tcp { host: host.to_ascii_lowercase(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Bind, String> {
        Bind::parse(text, Path::new("/srv/app"))
    }

    fn tcp(host: &str, port: u16) -> Result<Bind, String> {
        Ok(Bind::Tcp { host: host.to_owned(), port })
    }

    #[test]
    fn every_spelling_of_gunicorn_is_understood() {
        assert_eq!(parse("127.0.0.1:8000"), tcp("127.0.0.1", 8000));
        assert_eq!(parse("localhost"), tcp("localhost", 8000));
        assert_eq!(parse("LocalHost:0"), tcp("localhost", 0));
        assert_eq!(parse(":8080"), tcp("", 8080));
        assert_eq!(parse("0.0.0.0"), tcp("0.0.0.0", 8000));
        assert_eq!(parse("[::1]:9000"), tcp("::1", 9000));
        assert_eq!(parse("[::]"), tcp("::", 8000));
        assert_eq!(parse("tcp://127.0.0.1:1"), tcp("127.0.0.1", 1));
        assert_eq!(parse("tcp://[::1]:2"), tcp("::1", 2));
        assert_eq!(parse("unix:/run/app.sock"), Ok(Bind::Unix("/run/app.sock".into())));
        assert_eq!(parse("unix:///run/app.sock"), Ok(Bind::Unix("/run/app.sock".into())));
        assert_eq!(parse("unix:app.sock"), Ok(Bind::Unix("/srv/app/app.sock".into())));
        assert_eq!(parse("unix:@app"), Ok(Bind::UnixAbstract("app".to_owned())));
        assert_eq!(parse("unix:\0app"), Ok(Bind::UnixAbstract("app".to_owned())));
        assert_eq!(parse("unix:\\0app"), Ok(Bind::UnixAbstract("app".to_owned())));
        assert_eq!(parse("fd://3"), Ok(Bind::Fd(3)));
        assert_eq!(parse("fdname:admin"), Ok(Bind::FdName("admin".to_owned())));
    }

    #[test]
    fn a_wrong_address_says_what_is_wrong() {
        for (text, what) in [
            ("", "it is empty"),
            ("8080", "a port alone is written 127.0.0.1:8080, or :8080 for all addresses"),
            ("::1", "an IPv6 address needs brackets: [::1]:8000"),
            ("[::1", "the closing ] is missing"),
            ("[::1]x", "\"x\" after the ] is not a port"),
            ("[nonsense]:80", "\"nonsense\" is not an IPv6 address"),
            ("127.0.0.1:http", "\"http\" is not a port (0 to 65535)"),
            ("127.0.0.1:70000", "\"70000\" is not a port (0 to 65535)"),
            ("127.0.0.1:+80", "\"+80\" is not a port (0 to 65535)"),
            ("/run/app.sock", "\"/run/app.sock\" is not a host; a unix socket is written unix:/run/app.sock"),
            ("unix:", "the path is empty"),
            ("unix:@", "the abstract name is empty"),
            ("fd://three", "\"three\" is not the number of a file descriptor"),
            ("fdname:", "fdname: wants the FileDescriptorName= of a systemd socket"),
            ("my host:80", "\"my host\" is not a host"),
        ] {
            assert_eq!(parse(text), Err(what.to_owned()), "{text:?}");
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert!(parse(&long).is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_displayed_is_parsed_as_the_same(host in "[a-z0-9.-]{0,20}", port: u16, number in 0..i32::MAX) {
            for bind in [
                Bind::Tcp { host: host.clone(), port },
                Bind::Tcp { host: "fe80::1".to_owned(), port },
                Bind::Unix(PathBuf::from(format!("/run/{host}x"))),
                Bind::UnixAbstract(format!("{host}x")),
                Bind::Fd(number),
            ] {
                proptest::prop_assert_eq!(parse(&bind.to_string()), Ok(bind));
            }
        }

        #[test]
        fn any_text_is_an_address_or_an_error(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
