//! A process of the tests: killed at the latest when its value is dropped.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{
    lines::Lines,
    wait::{SOON, eventually},
};

pub struct Process {
    pub stdout: Lines,
    pub stderr: Lines,
    name: String,
    child: Mutex<Child>,
}

impl Process {
    /// Starts it with `folder`, which is a scratch folder or in one, as its working folder.
    pub fn spawn(command: &mut Command, folder: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = Lines::of(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::of(child.stderr.take().expect("stderr is piped"));
        Self { stdout, stderr, name, child: Mutex::new(child) }
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    pub fn write_line(&self, line: &str) {
        let mut child = self.child();
        let stdin = child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{line}")
            .unwrap_or_else(|error| panic!("{} does not read: {error}", self.name));
    }

    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    pub fn kill9(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends nothing to a process that has ended.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        if child.try_wait().expect("it is our child").is_none() {
            kill_process(Pid::from_child(&child), signal)
                .expect("it is our child and not yet waited for");
        }
    }

    /// The most memory that it has held at one time.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kilobytes: u64 = peak.expect("the process is running").parse().expect("it is a number");
        kilobytes * 1024
    }

    pub fn is_running(&self) -> bool {
        self.child().try_wait().expect("it is our child").is_none()
    }

    /// Waits for the process to end and for its last lines.
    pub async fn ended(&self, deadline: Duration) -> ExitStatus {
        let what = format!("{} has ended", self.name);
        let ended = async || self.child().try_wait().expect("it is our child");
        let status = eventually(deadline, &what, ended).await;
        self.stdout.closed(SOON).await;
        self.stderr.closed(SOON).await;
        status
    }

    /// The exit code, once it has ended. Panics if a signal ended it.
    pub async fn exit_code(&self, deadline: Duration) -> i32 {
        let status = self.ended(deadline).await;
        status.code().unwrap_or_else(|| panic!("{} has no exit code: {status}", self.name))
    }

    #[expect(clippy::print_stderr, reason = "it belongs to the failure of the test")]
    fn print_stderr(&self) {
        eprintln!("{} said:\n{}", self.name, self.stderr.all().join("\n"));
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        // A test that panicked elsewhere must not keep this from being killed.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_stderr();
        }
        let mut child = self.child();
        // Errors say that it has ended by itself. Its own children are in its group.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }
}
