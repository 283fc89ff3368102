//! The arbiter against molds and workers that do what no honest ones would (tests/arbiter/fake_mold.py): it neither
//! stops, nor waits, nor hurts a stranger.

// A test says directly what it expects.
#![allow(clippy::unwrap_used, clippy::panic)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a fact is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// To be held while programs are written and processes started: a program that is still open for writing cannot be
/// executed (ETXTBSY, execve(2)), and a child that another test's thread forks just then holds it open until its own exec.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Arbiter {
    folder: tempfile::TempDir,
    child: Child,
}

impl Arbiter {
    /// Starts an arbiter whose molds are fake.
    fn start(fake: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Arbiter {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("rgunicorn");
        fs::copy(env!("CARGO_BIN_EXE_rgunicorn"), &program).unwrap();
        fs::write(folder.path().join("rgunicorn_worker.abi3.so"), "never loaded").unwrap();
        let python = folder.path().join("python");
        let mold = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/arbiter/fake_mold.py");
        fs::write(&python, format!("#!/bin/sh\nexec python3 {}\n", mold.display())).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("s.sock");
        let child = Command::new(&program)
            .args(["--python", python.to_str().unwrap(), "--bind", &format!("unix:{}", socket.display())])
            .args(["--workers", "2", "--graceful-timeout", "1", "--chdir", folder.path().to_str().unwrap()])
            .args(arguments)
            .arg("app:app")
            .env("FAKE", fake)
            .env("FAKE_VERSION", env!("CARGO_PKG_VERSION"))
            .env("ORPHAN", folder.path().join("orphan"))
            .envs(environment.iter().copied())
            .env_remove("SYSTEMD_EXEC_PID")
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Arbiter { folder, child }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn wait_for(&self, text: &str) {
        self.wait_until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    fn wait_until(&self, what: &str, fact: impl Fn() -> bool) {
        let end = Instant::now() + LIMIT;
        while !fact() {
            assert!(Instant::now() < end, "waited too long for {what}; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The exit status, once it has ended.
    fn end(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn children(&self) -> Vec<String> {
        let pid = self.child.id();
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect()
    }

    fn zombies(&self) -> usize {
        let stat = |pid: &String| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        self.children().iter().filter(|pid| stat(pid).contains(") Z ")).count()
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exists(pid: &str) -> bool {
    PathBuf::from("/proc").join(pid).exists()
}

#[test]
fn honest_fakes_are_served_reloaded_and_stopped() {
    let mut arbiter = Arbiter::start("", &[], &[]);
    arbiter.wait_for("Generation 1 serves with 2 workers");
    arbiter.signal(Signal::SIGHUP);
    arbiter.wait_for("Generation 2 serves with 2 workers");
    arbiter.wait_until("the old generation to be gone", || arbiter.children().len() == 3);
    arbiter.signal(Signal::SIGTERM);
    assert_eq!(arbiter.end(), Some(0));
    assert!(arbiter.log().contains("a word of warning") && !arbiter.log().contains("ERROR"), "{}", arbiter.log());
    assert!(!arbiter.folder.path().join("s.sock").exists());
}

#[test]
fn workers_that_die_before_or_after_their_hello_end_the_start_with_one_error() {
    for fake in ["dies before hello", "dies after hello"] {
        let mut arbiter = Arbiter::start(fake, &[], &[]);
        assert_eq!(arbiter.end(), Some(3), "{fake}");
        assert_eq!(arbiter.log().matches("[ERROR]").count(), 1, "{fake}: {}", arbiter.log());
    }
}

#[test]
fn a_module_of_another_version_is_refused_by_name() {
    let mut arbiter = Arbiter::start("another version", &[], &[]);
    assert_eq!(arbiter.end(), Some(3));
    assert!(arbiter.log().contains("version 0.0.0"), "{}", arbiter.log());
}

#[test]
fn a_mold_that_says_nothing_is_given_up_in_time() {
    let mut arbiter = Arbiter::start("mold says nothing", &["--boot-timeout", "1"], &[]);
    assert_eq!(arbiter.end(), Some(3));
    assert!(arbiter.log().contains("boot_timeout"), "{}", arbiter.log());
}

#[test]
fn a_worker_that_speaks_garbage_while_it_boots_ends_the_start_and_it_is_said_why() {
    let mut arbiter = Arbiter::start("garbage", &[], &[]);
    // Serials are given in order: mold 1, workers 2 and 3.
    assert_eq!(arbiter.end(), Some(3));
    assert!(arbiter.log().contains("no message of version"), "{}", arbiter.log());
}

#[test]
fn a_stranger_whose_pid_a_worker_claims_is_not_killed() {
    let mut stranger = {
        let _alone = alone();
        Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let pid = stranger.id().to_string();
    let mut arbiter = Arbiter::start("false pid", &[], &[("STRANGER", &pid)]);
    arbiter.wait_for("Generation 1 serves");
    arbiter.signal(Signal::SIGINT);
    assert_eq!(arbiter.end(), Some(0));
    assert!(arbiter.log().contains("not a child"), "{}", arbiter.log());
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_worker_whose_channel_is_closed_is_replaced_and_in_the_end_killed() {
    let mut arbiter = Arbiter::start("closes its channel", &[], &[]);
    arbiter.wait_for("has lost its channel but lives on");
    arbiter.wait_for("is killed: it was to leave within 1 s");
    arbiter.signal(Signal::SIGINT);
    assert_eq!(arbiter.end(), Some(0));
}

#[test]
fn workers_that_die_as_soon_as_they_are_ready_leave_no_zombie_and_are_tried_more_slowly() {
    let mut arbiter = Arbiter::start("dies when ready", &[], &[]);
    arbiter.wait_until("an end, or ever slower tries", || {
        arbiter.log().contains("in 0.40 s") || arbiter.log().contains("could not be started")
    });
    arbiter.wait_until("all zombies to be reaped", || arbiter.zombies() == 0);
    arbiter.signal(Signal::SIGTERM);
    arbiter.end();
}

#[test]
fn a_flood_of_messages_starves_nobody() {
    let mut arbiter = Arbiter::start("floods", &[], &[]);
    arbiter.wait_for("Generation 1 serves with 2 workers");
    arbiter.signal(Signal::SIGTTIN);
    arbiter.wait_for("From now on 3 workers");
    arbiter.signal(Signal::SIGINT);
    assert_eq!(arbiter.end(), Some(0));
}

#[test]
fn what_an_application_leaves_behind_is_killed_in_the_end() {
    let mut arbiter = Arbiter::start("leaves a child", &[], &[]);
    let path = arbiter.folder.path().join("orphan");
    arbiter.wait_until("the child's pid", || path.exists());
    let orphan = fs::read_to_string(&path).unwrap();
    arbiter.wait_for("Generation 1 serves");
    arbiter.signal(Signal::SIGTERM);
    assert_eq!(arbiter.end(), Some(0));
    assert!(arbiter.log().contains("left behind"), "{}", arbiter.log());
    assert!(!exists(&orphan), "pid {orphan}");
}
