//! What one setting is: the shape of an entry of [`super::table`].
//!
//! Types only; the entries are in `table`, what reads values by their kind is in `value`.

/// One entry of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Gunicorn's name where Gunicorn has the setting, else ours. The key in TOML files.
    pub(crate) name: &'static str,
    /// Other names that mean the same.
    pub(crate) aliases: &'static [&'static str],
    /// Where it is listed.
    pub(crate) section: Section,
    /// Gunicorn's spellings, in Gunicorn's order: at most one short.
    pub(crate) flags: &'static [&'static str],
    /// What follows the flag.
    pub(crate) form: FlagForm,
    /// Environment variables beside `RGUNICORN_NAME`, as Gunicorn reads them: they rank just above the default.
    pub(crate) env: &'static [&'static str],
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Its value if nobody sets it.
    pub(crate) default: Default,
    /// One line, for `--help`.
    pub(crate) help: &'static str,
    /// Paragraphs, for `rgunicorn explain` and the reference.
    pub(crate) doc: &'static str,
    /// When a reload takes a new value over.
    pub(crate) on_reload: OnReload,
    /// Whether it does something.
    pub(crate) status: Status,
}

/// What follows a flag on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagForm {
    /// A value.
    Value,
    /// A value each time the flag is given.
    Repeated,
    /// Nothing; the flag means this value.
    Switch(bool),
    /// A value or nothing; nothing means this value.
    Optional(&'static str),
}

/// The kinds of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// The path of a file or folder, relative to `chdir`; `-` stands for itself where `dash` says so.
    Path {
        /// Whether `-` (the standard stream) is allowed.
        dash: bool,
    },
    /// A whole number.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number of bytes, also as `64KiB` or `1M`.
    Size,
    /// A number of seconds, fractions allowed.
    Seconds {
        /// The least; 0 has the meaning that the documentation gives.
        min: f64,
    },
    /// Permission bits, octal where a text begins with 0.
    Mode,
    /// True or false.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these words; true and false mean two of them.
    ChoiceOrSwitch {
        /// The words.
        choices: &'static [&'static str],
        /// What true means.
        on: &'static str,
        /// What false means.
        off: &'static str,
    },
    /// A pool's name or class.
    Pool,
    /// Addresses to listen on.
    Addresses,
    /// A list of texts; one text is split at its commas.
    List,
    /// A list of IP addresses and CIDR networks, or `*`; one text is split at its commas.
    Networks,
    /// A list of `NAME=VALUE`, or a TOML table.
    Pairs,
    /// A TOML table of header names and values.
    Headers,
    /// A template of an access log line.
    LogTemplate,
    /// A path that a request can have.
    UrlPath,
    /// A Python function.
    Hook,
    /// A TOML table of anything.
    Table,
}

/// A setting's value if nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    /// No value.
    Unset,
    /// This, in the form in which a flag would have it.
    Is(&'static str),
    /// Made from the machine or from other settings; this says how.
    Computed(&'static str),
}

/// When a reload takes a new value over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnReload {
    /// With the new generation, once it is promoted.
    Applies,
    /// Only when the service is restarted; this says why.
    Restart(&'static str),
    /// It is a question to the program or says where the settings are: looked at when the program starts.
    Start,
}

/// Whether a setting does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It does.
    Built,
    /// Planned: the default is accepted, any other value is refused with "not supported yet".
    NotYet,
    /// Not planned: the default is accepted, any other value is refused with this reason and way out.
    Refused(&'static str),
    /// Any value is accepted, and does nothing, because of this; a warning says so.
    NoEffect(&'static str),
}

/// The groups of settings, in the order of help and reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    /// Which application, which instance.
    Application,
    /// Where to listen.
    Sockets,
    /// Pools and their limits.
    Workers,
    /// Time and recycling.
    Timeouts,
    /// Sizes and strictness.
    Requests,
    /// What is in front of us.
    Proxies,
    /// User, folder, environment.
    Process,
    /// Records.
    Logging,
    /// Questions and development.
    Debugging,
    /// Coroutine pools.
    Asgi,
    /// The control socket.
    Control,
    /// HTTP/2.
    Http2,
    /// TLS.
    Tls,
    /// Gunicorn's second process tree.
    Dirty,
    /// Python functions in Gunicorn's configuration file.
    Hooks,
}

impl Section {
    /// The heading.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Application => "Application",
            Self::Sockets => "Sockets",
            Self::Workers => "Workers",
            Self::Timeouts => "Timeouts and recycling",
            Self::Requests => "Requests and responses",
            Self::Proxies => "Proxies in front",
            Self::Process => "Process",
            Self::Logging => "Logging",
            Self::Debugging => "Checking and debugging",
            Self::Asgi => "ASGI",
            Self::Control => "Control",
            Self::Http2 => "HTTP/2",
            Self::Tls => "TLS",
            Self::Dirty => "Dirty arbiters",
            Self::Hooks => "Hooks",
        }
    }
}

impl Setting {
    /// A built setting that any layer may give and a reload takes over; the methods below say what else it is.
    pub(crate) const fn new(
        name: &'static str,
        section: Section,
        kind: Kind,
        default: Default,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            aliases: &[],
            section,
            flags: &[],
            form: match kind {
                Kind::Switch => FlagForm::Switch(true),
                Kind::Addresses | Kind::Pairs => FlagForm::Repeated,
                Kind::Text
                | Kind::Path { .. }
                | Kind::Integer { .. }
                | Kind::Size
                | Kind::Seconds { .. }
                | Kind::Mode
                | Kind::Choice(_)
                | Kind::ChoiceOrSwitch { .. }
                | Kind::Pool
                | Kind::List
                | Kind::Networks
                | Kind::Headers
                | Kind::LogTemplate
                | Kind::UrlPath
                | Kind::Hook
                | Kind::Table => FlagForm::Value,
            },
            env: &[],
            kind,
            default,
            help,
            doc: "",
            on_reload: OnReload::Applies,
            status: Status::Built,
        }
    }

    /// Gives it flags.
    pub(crate) const fn flags(mut self, flags: &'static [&'static str]) -> Self {
        self.flags = flags;
        self
    }

    /// Says what follows the flag.
    pub(crate) const fn form(mut self, form: FlagForm) -> Self {
        self.form = form;
        self
    }

    /// Gives it other names.
    pub(crate) const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Gives it Gunicorn's environment variables.
    pub(crate) const fn env(mut self, env: &'static [&'static str]) -> Self {
        self.env = env;
        self
    }

    /// Explains it.
    pub(crate) const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// Says what a reload does with it.
    pub(crate) const fn on_reload(mut self, on_reload: OnReload) -> Self {
        self.on_reload = on_reload;
        self
    }

    /// Planned, not built.
    pub(crate) const fn not_yet(mut self) -> Self {
        self.status = Status::NotYet;
        self
    }

    /// Not planned, with the reason and the way out.
    pub(crate) const fn refused(mut self, reason: &'static str) -> Self {
        self.status = Status::Refused(reason);
        self
    }

    /// Accepted without effect, with the reason.
    pub(crate) const fn no_effect(mut self, reason: &'static str) -> Self {
        self.status = Status::NoEffect(reason);
        self
    }

    /// The variable of our own: `RGUNICORN_` and the name in capitals.
    pub(crate) fn variable(&self) -> String {
        format!("RGUNICORN_{}", self.name.to_ascii_uppercase())
    }

    /// The short flag's letter, if there is one.
    pub(crate) fn short(&self) -> Option<char> {
        self.flags.iter().find_map(|flag| {
            let letter = flag.strip_prefix('-')?;
            letter.chars().next().filter(|first| *first != '-')
        })
    }

    /// The long flags, without their dashes.
    pub(crate) fn long(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.flags.iter().filter_map(|flag| flag.strip_prefix("--"))
    }
}
