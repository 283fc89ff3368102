//! The command line: our commands, and gunicornc's where they mean the same.
//!
//! Owns the grammar and the help. Knows no socket.

use rgunicorn_protocol::control::Order;
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
rgunicornctl [-i INSTANCE | -s SOCKET] [--json] COMMAND

Commands
  status            the instance at a glance
  workers           each worker: state, load, speed, memory
  requests          requests that run now, the longest first
  settings          every setting with its value and origin
  scale N           N workers from now on; +N and -N: so many more or fewer
  retire SLOT       replace the worker of a slot; the new one is ready before the old one leaves
  reload            a new generation: waits until it serves (exit status 0) or has failed (1, and says why)
         [--join]   for ExecReload= of Type=notify-reload: waits for the reload that systemd has just ordered by signal
  upgrade           run the installed version in place of the running one, with the same pid, then reload;
                    nothing is interrupted: waits for the end as reload does
  reopen            open the log files anew
  stop [--quick]    stop and wait for the end; with --quick requests in flight are cut off

Options
  -i, --instance NAME   the NAME in rgunicorn@NAME; not needed where one instance runs
  -s, --socket PATH     the control socket itself
  -j, --json            one JSON object instead of text
  -c, --command WORDS   the command as one argument, as gunicornc has it
  -h, --help            this
  -V, --version         the version

gunicornc's commands: show all|workers|config|stats|listeners, worker add|remove [N], worker kill PID,
reload, reopen, shutdown [graceful|quick].
Exit status: 0 done, 1 failed, 2 the command line is wrong, 3 no instance, or it cannot be reached.
";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Order(Order),
    /// Replace the worker with this pid.
    Kill(i32),
    Help,
    Version,
}

/// The command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) command: Command,
    pub(crate) instance: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) json: bool,
}

impl Words {
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn parse(arguments: &[String]) -> Result<Words, String> {
        let (mut instance, mut socket, mut json, mut quick, mut join) = (None, None, false, false, false);
        let mut words: Vec<String> = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let takes_value = matches!(name, "-i" | "--instance" | "-s" | "--socket" | "-c" | "--command");
            if attached.is_some() && !takes_value {
                return Err(format!("there is no option {argument}"));
            }
            let mut value = || {
                let value = attached.clone().or_else(|| rest.next().cloned());
                value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{name} needs a value"))
            };
            match name {
                "-i" | "--instance" => instance = Some(value()?),
                "-s" | "--socket" => socket = Some(PathBuf::from(value()?)),
                "-c" | "--command" => words.extend(value()?.split_whitespace().map(str::to_owned)),
                "-j" | "--json" => json = true,
                "--quick" => quick = true,
                "--join" => join = true,
                // gunicornc's word for more words; there are no others here.
                "-v" | "--verbose" => {}
                "-h" | "--help" => words = vec!["help".into()],
                "-V" | "--version" => words = vec!["version".into()],
                // `scale -1`
                _ if argument.starts_with('-') && argument.parse::<i32>().is_err() => {
                    return Err(format!("there is no option {argument}"));
                }
                _ => words.push(argument.clone()),
            }
        }
        if instance.is_some() && socket.is_some() {
            return Err("-i and -s exclude each other".into());
        }
        let command = command(&words, quick, join)?;
        if quick && !matches!(command, Command::Order(Order::Stop { .. })) {
            return Err("--quick goes with stop alone".into());
        }
        if join && !matches!(command, Command::Order(Order::Reload { .. })) {
            return Err("--join goes with reload alone".into());
        }
        Ok(Words { command, instance, socket, json })
    }
}

fn command(words: &[String], quick: bool, join: bool) -> Result<Command, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let order = match words[..] {
        [] => return Err("a command is missing".into()),
        ["help"] => return Ok(Command::Help),
        ["version"] => return Ok(Command::Version),
        ["status"] | ["show"] | ["show", "all" | "stats" | "listeners"] => Order::Status,
        ["workers"] | ["show", "workers"] => Order::Workers,
        ["requests"] | ["show", "requests"] => Order::Requests,
        ["settings" | "config"] | ["show", "config" | "settings"] => Order::Settings,
        ["scale", wanted] => match wanted.strip_prefix('+') {
            Some(more) => Order::ScaleBy { difference: number(more)? },
            None if wanted.starts_with('-') => Order::ScaleBy { difference: number(wanted)? },
            None => Order::Scale { workers: number(wanted)? },
        },
        ["worker", "add"] => Order::ScaleBy { difference: 1 },
        ["worker", "add", more] => Order::ScaleBy { difference: number::<u16>(more)?.into() },
        ["worker", "remove"] => Order::ScaleBy { difference: -1 },
        ["worker", "remove", fewer] => Order::ScaleBy { difference: -i32::from(number::<u16>(fewer)?) },
        ["worker", "kill", pid] => return Ok(Command::Kill(number(pid)?)),
        ["retire", slot] => Order::Retire { slot: number(slot)? },
        ["reload"] => Order::Reload { join },
        ["upgrade"] => Order::Upgrade,
        ["reopen"] => Order::Reopen,
        ["stop"] => Order::Stop { quick },
        ["shutdown"] | ["shutdown", "graceful"] => Order::Stop { quick },
        ["shutdown", "quick"] => Order::Stop { quick: true },
        [first @ ("scale" | "retire"), ..] => return Err(format!("{first} needs one number")),
        ["dirty", ..] => return Err("rgunicorn has no dirty arbiters".into()),
        _ => return Err(format!("there is no command \"{}\"", words.join(" "))),
    };
    Ok(Command::Order(order))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that can be used here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Words, String> {
        Words::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn order(line: &str) -> Order {
        match parse(line).unwrap().command {
            Command::Order(order) => order,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_are_understood_wherever_the_options_stand() {
        let words = parse("-i shop scale 4 --json").unwrap();
        assert_eq!(words.command, Command::Order(Order::Scale { workers: 4 }));
        assert_eq!((words.instance.as_deref(), words.json), (Some("shop"), true));
        assert_eq!(parse("--instance=shop status").unwrap().instance.as_deref(), Some("shop"));
    }

    #[test]
    fn scale_takes_a_number_or_a_difference() {
        assert_eq!(order("scale +2"), Order::ScaleBy { difference: 2 });
        assert_eq!(order("scale -1"), Order::ScaleBy { difference: -1 });
        assert!(parse("scale many").unwrap_err().contains("many"));
        assert!(parse("scale").unwrap_err().contains("one number"));
    }

    #[test]
    fn the_commands_of_gunicornc_mean_the_same_here() {
        assert_eq!(order("show workers"), Order::Workers);
        assert_eq!(order("worker add 2"), Order::ScaleBy { difference: 2 });
        assert_eq!(order("worker remove"), Order::ScaleBy { difference: -1 });
        assert_eq!(order("shutdown quick"), Order::Stop { quick: true });
        assert_eq!(parse("worker kill 77").unwrap().command, Command::Kill(77));
        let words = Words::parse(&["-c".into(), "show all".into()]).unwrap();
        assert_eq!(words.command, Command::Order(Order::Status));
    }

    #[test]
    fn a_reload_can_join_the_one_that_systemd_has_ordered() {
        assert_eq!(order("reload"), Order::Reload { join: false });
        assert_eq!(order("-i shop reload --join"), Order::Reload { join: true });
    }

    #[test]
    fn an_option_of_another_command_is_refused_rather_than_ignored() {
        assert_eq!(order("stop --quick"), Order::Stop { quick: true });
        assert!(parse("reload --quick").unwrap_err().contains("--quick"));
        assert!(parse("stop --join").unwrap_err().contains("--join"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("explode").unwrap_err().contains("explode"));
        assert!(parse("status --loud").unwrap_err().contains("--loud"));
        assert!(parse("status --json=no").unwrap_err().contains("--json=no"));
        assert!(parse("worker add -1").unwrap_err().contains("-1"));
        assert!(parse("").unwrap_err().contains("missing"));
        assert!(parse("status -i").unwrap_err().contains("needs a value"));
        assert!(parse("-i a -s b status").unwrap_err().contains("exclude"));
    }
}
