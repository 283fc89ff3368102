//! `rgunicorn exec INSTANCE -- COMMAND`: runs a command as the instance runs its application.
//!
//! Owns the change of user, folder and environment of this very process; does not return on success. Knows systemd only
//! as far as it must: the running service's main process shows user, environment and mounts, also where a dynamic user
//! and a private state folder exist for the service alone (systemd.exec(5), DynamicUser=). Invariant: privileges are
//! dropped before the command is looked up, so what root may execute does not matter.

use crate::exit::Exit;
use crate::settings::{self, Invocation, Settings, interpreter};
use nix::unistd::{Gid, Uid, User};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What belongs to the service's own process and not to a command beside it (sd_listen_fds(3), sd_notify(3),
/// systemd.exec(5)).
const SERVICE_ONLY: [&str; 11] = [
    crate::supervisor::STATE_VARIABLE,
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "MAINPID",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
];

/// Why the command was not run.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// How to end.
    pub(crate) exit: Exit,
    /// One sentence for the operator.
    pub(crate) message: String,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, message: message.into() }
    }
}

/// Who the command runs as, and with what around it.
struct Surroundings {
    uid: Option<Uid>,
    gid: Option<Gid>,
    groups: Vec<Gid>,
    environment: BTreeMap<OsString, OsString>,
}

/// Runs the command in place of this process. Returns only to say why it could not.
pub(crate) fn exec(invocation: &Invocation, instance: &str, command: &[OsString]) -> Refusal {
    match prepare(invocation, instance, command) {
        Ok(mut ready) => {
            let error = ready.exec();
            let program = PathBuf::from(ready.get_program());
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::CommandNotFound,
                _ => Exit::CannotExecute,
            };
            // The kernel says EACCES of a whole path; the component that stands in the way says more.
            let what = settings::obstacle_to_execute(&program).unwrap_or_else(|| error.to_string());
            Refusal { exit, message: format!("exec: {} cannot be executed: {what}", program.display()) }
        }
        Err(refusal) => refusal,
    }
}

fn prepare(invocation: &Invocation, instance: &str, command: &[OsString]) -> Result<Command, Refusal> {
    let [program, arguments @ ..] = command else {
        return Err(Refusal::new("exec: the command is missing"));
    };
    let settings = Settings::read_for_exec(&instances_own(invocation, instance))
        .map_err(|error| Refusal { exit: error.exit(), message: error.to_string() })?;
    let service = if Uid::effective().is_root() { main_process(instance) } else { None };
    let mut around = match service {
        Some(pid) => as_service(pid)?,
        None => as_declared(&settings, instance, invocation)?,
    };
    if let Some(uid) = settings.uid {
        around.uid = Some(Uid::from_raw(uid));
        around.groups.clear();
    }
    if let Some(gid) = settings.gid {
        around.gid = Some(Gid::from_raw(gid));
        around.groups.clear();
    }
    complete_environment(&mut around, &settings);
    if let Some(pid) = service {
        join_mounts(pid)?;
    }
    become_user(&around, &settings)?;
    std::env::set_current_dir(&settings.chdir)
        .map_err(|error| Refusal::new(format!("exec: {} cannot be entered: {error}", settings.chdir.display())))?;
    if settings.umask_is_set {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(settings.umask));
    }
    let found = look_up(program, &settings, &around.environment)?;
    let mut ready = Command::new(found);
    ready.arg0(program).args(arguments).env_clear().envs(&around.environment);
    Ok(ready)
}

/// The settings of the instance alone: nothing of the caller's command line or environment but PATH.
fn instances_own(invocation: &Invocation, instance: &str) -> Invocation {
    let path = OsString::from("PATH");
    let environment =
        invocation.environment.get(&path).map(|value| (path.clone(), value.clone())).into_iter().collect();
    Invocation {
        arguments: vec![OsString::from("--instance"), OsString::from(instance)],
        environment,
        // systemd's WorkingDirectory= default.
        directory: PathBuf::from("/"),
        program: invocation.program.clone(),
        started_as: invocation.started_as.clone(),
        configuration: invocation.configuration.clone(),
    }
}

/// The running service's main process.
fn main_process(instance: &str) -> Option<i32> {
    let unit = format!("rgunicorn@{instance}.service");
    let asked = Command::new("systemctl").args(["show", "--property=MainPID", "--value", &unit]).output().ok()?;
    let pid = std::str::from_utf8(&asked.stdout).ok()?.trim().parse::<i32>().ok()?;
    (pid > 0).then_some(pid)
}

/// As the service's main process is.
fn as_service(pid: i32) -> Result<Surroundings, Refusal> {
    let gone =
        |error: io::Error| Refusal::new(format!("exec: the service's main process {pid} cannot be read: {error}"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(gone)?;
    let environment = fs::read(format!("/proc/{pid}/environ")).map_err(gone)?;
    // proc_pid_status(5): real, effective, saved, file system.
    let ids = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    Ok(Surroundings {
        uid: ids("Uid:").get(1).map(|&id| Uid::from_raw(id)),
        gid: ids("Gid:").get(1).map(|&id| Gid::from_raw(id)),
        groups: ids("Groups:").into_iter().map(Gid::from_raw).collect(),
        environment: parse_environment(&environment),
    })
}

fn parse_environment(block: &[u8]) -> BTreeMap<OsString, OsString> {
    block
        .split(|byte| *byte == 0)
        .filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((OsString::from_vec(pair[..at].to_vec()), OsString::from_vec(pair[at + 1..].to_vec())))
        })
        .collect()
}

/// As the settings and the unit's user say, with the caller's environment.
fn as_declared(settings: &Settings, instance: &str, invocation: &Invocation) -> Result<Surroundings, Refusal> {
    let environment = invocation
        .environment
        .iter()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            !name.starts_with("RGUNICORN_") && name != "GUNICORN_CMD_ARGS"
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut around = Surroundings { uid: None, gid: None, groups: Vec::new(), environment };
    if settings.uid.is_some() {
        return Ok(around);
    }
    let name = format!("rgunicorn-{instance}");
    let user = User::from_name(&name).ok().flatten();
    let ourselves = Uid::effective();
    match user {
        Some(user) if user.uid == ourselves => {}
        Some(user) if ourselves.is_root() => {
            around.uid = Some(user.uid);
            around.gid = Some(user.gid);
            if let Ok(name) = CString::new(user.name) {
                around.groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
            }
        }
        Some(user) => {
            return Err(Refusal::new(format!(
                "exec: the instance runs as {}, and only root can become that: use sudo",
                user.name
            )));
        }
        None if ourselves.is_root() => {
            return Err(Refusal::new(format!(
                "exec: there is no user {name}. The unit's dynamic user exists only while the service runs: systemctl start \
                 rgunicorn@{instance}.service first, or make the user (useradd --system {name}), or set user in the \
                 settings"
            )));
        }
        // A developer's own instance, without unit or user.
        None => {}
    }
    Ok(around)
}

/// On top of what there is: the user's names, the virtual environment, env_file and raw_env.
fn complete_environment(around: &mut Surroundings, settings: &Settings) {
    let environment = &mut around.environment;
    for name in SERVICE_ONLY {
        environment.remove(OsStr::new(name));
    }
    if let Some(uid) = around.uid
        && let Ok(Some(user)) = User::from_uid(uid)
    {
        environment.insert("USER".into(), user.name.clone().into());
        environment.insert("LOGNAME".into(), user.name.into());
        environment.insert("HOME".into(), user.dir.into());
    }
    environment.remove(OsStr::new("VIRTUAL_ENV"));
    if let Some(bin) = settings.python.parent() {
        let inherited = environment.get(OsStr::new("PATH")).cloned().unwrap_or_else(|| "/usr/bin:/bin".into());
        let mut path = bin.as_os_str().to_owned();
        path.push(":");
        path.push(inherited);
        environment.insert("PATH".into(), path);
        if interpreter::is_virtual_environment(&settings.python)
            && let Some(top) = bin.parent()
        {
            environment.insert("VIRTUAL_ENV".into(), top.into());
        }
    }
    if !settings.pythonpath.is_empty() {
        let mut folders: Vec<PathBuf> = settings.pythonpath.clone();
        folders.extend(environment.get(OsStr::new("PYTHONPATH")).map(std::env::split_paths).into_iter().flatten());
        if let Ok(joined) = std::env::join_paths(folders) {
            environment.insert("PYTHONPATH".into(), joined);
        }
    }
    environment.extend(settings.env.iter().map(|(name, value)| (name.into(), value.into())));
}

/// The service's view of the file system: its state folder lies below /var/lib/private, which nobody else may enter.
fn join_mounts(pid: i32) -> Result<(), Refusal> {
    let path = format!("/proc/{pid}/ns/mnt");
    let namespace = fs::File::open(&path).map_err(|error| Refusal::new(format!("exec: {path}: {error}")))?;
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|error| Refusal::new(format!("exec: the service's mounts cannot be joined: {}", error.desc())))
}

fn become_user(around: &Surroundings, settings: &Settings) -> Result<(), Refusal> {
    let refused = |what: &str| {
        let what = what.to_owned();
        move |error: nix::Error| Refusal::new(format!("exec: {what} cannot be changed: {}", error.desc()))
    };
    if !Uid::effective().is_root() {
        return Ok(());
    }
    if around.uid.is_some() || around.gid.is_some() {
        let name =
            settings.user_name.as_deref().filter(|_| settings.initgroups).and_then(|name| CString::new(name).ok());
        match (name, around.gid) {
            (Some(name), Some(gid)) => nix::unistd::initgroups(&name, gid).map_err(refused("the groups"))?,
            (Some(_) | None, _) => nix::unistd::setgroups(&around.groups).map_err(refused("the groups"))?,
        }
    }
    if let Some(gid) = around.gid {
        nix::unistd::setgid(gid).map_err(refused("the group"))?;
    }
    if let Some(uid) = around.uid {
        nix::unistd::setuid(uid).map_err(refused("the user"))?;
    }
    Ok(())
}

/// The program's path: `python` and `python3` are the instance's interpreter, else PATH decides.
fn look_up(
    program: &OsStr,
    settings: &Settings,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<PathBuf, Refusal> {
    if program == "python" || program == "python3" {
        return Ok(settings.python.clone());
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(settings.chdir.join(program));
    }
    let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| executable(candidate));
    found.ok_or_else(|| Refusal {
        exit: Exit::CommandNotFound,
        message: format!("exec: there is no {} on the instance's PATH", program.to_string_lossy()),
    })
}

fn executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
