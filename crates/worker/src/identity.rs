//! Who a worker is for the system: user, groups, umask, process title.

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getegid, geteuid, initgroups, setgid, setgroups, setuid};
use rgunicorn_protocol::{BootFault, BootFaultKind, WorkerSettings};
use std::ffi::CString;

/// Takes user, groups and umask. The mold does it before anything of the application is imported, so that no code of the
/// application ever runs with the arbiter's rights.
///
/// # Errors
/// The system refuses; the message names the setting.
pub(crate) fn take(settings: &WorkerSettings) -> Result<(), BootFault> {
    if let Some(mask) = settings.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    let fault = |setting: &str, value: String, errno: nix::errno::Errno| BootFault {
        kind: BootFaultKind::Environment,
        message: format!(
            "{setting} = {value} cannot be applied: {}; start rgunicorn as root, or let systemd set the user (User=, \
             DynamicUser=) and leave `user` and `group` unset",
            errno.desc()
        ),
        traceback: None,
    };
    let gid = settings.gid.map(Gid::from_raw).filter(|gid| *gid != getegid());
    let uid = settings.uid.map(Uid::from_raw).filter(|uid| *uid != geteuid());
    if gid.is_some() || uid.is_some() {
        let primary = gid.unwrap_or_else(getegid);
        let groups = match (&settings.user_name, settings.initgroups) {
            (Some(name), true) => CString::new(name.as_str())
                .map_err(|_| nix::errno::Errno::EINVAL)
                .and_then(|name| initgroups(&name, primary)),
            _ if geteuid().is_root() => setgroups(&[primary]),
            _ => Ok(()),
        };
        groups.map_err(|errno| fault("initgroups", settings.initgroups.to_string(), errno))?;
    }
    if let Some(gid) = gid {
        setgid(gid).map_err(|errno| fault("group", gid.to_string(), errno))?;
    }
    if let Some(uid) = uid {
        setuid(uid).map_err(|errno| fault("user", uid.to_string(), errno))?;
    }
    Ok(())
}

/// Shows in ps(1) what this process is: `rgunicorn: worker [app]`. The argument area of the process is overwritten in
/// place (proc(5), /proc/pid/cmdline); it is large enough because the mold's bootstrap code was an argument.
pub(crate) fn set_title(settings: &WorkerSettings, role: &str) {
    let name = if settings.proc_name.is_empty() { &settings.app } else { &settings.proc_name };
    let title = format!("rgunicorn: {role} [{name}]");
    let Some((start, end)) = argument_area() else { return };
    let room = end.saturating_sub(start);
    if room < 2 {
        return;
    }
    let length = title.len().min(room - 1);
    // SAFETY: the kernel says that this range is the process's argument area: mapped, writable, and read by nobody in
    // this process (CPython has copied its arguments).
    let area = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, room) };
    area.fill(0);
    area[..length].copy_from_slice(&title.as_bytes()[..length]);
}

/// First and last address of the arguments, from /proc/self/stat (fields 48 and 49).
fn argument_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses, which may contain anything.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ').skip(45);
    let start = fields.next()?.trim().parse().ok()?;
    let end = fields.next()?.trim().parse().ok()?;
    (start != 0).then_some((start, end))
}
