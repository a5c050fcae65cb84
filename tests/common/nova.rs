//! nova's part in the tests, by its own code: see `tests/nova_ops.py`.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::common::{World, raw};

/// Where nova answers nothing for longer than this, the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does what nova-compute does.
pub struct Nova {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Nova {
    /// Starts the interpreter that `NOVA_IMAGECACHE_PYTHON` names.
    pub fn start(world: &World) -> Self {
        Self::start_by(world, |python| Command::new(python))
    }

    /// The same by a command that runs the interpreter, such as one that puts it on another host.
    pub fn start_by(world: &World, command: impl FnOnce(&OsStr) -> Command) -> Self {
        let python = std::env::var_os("NOVA_IMAGECACHE_PYTHON").unwrap_or_else(|| "python3".into());
        let mut child = command(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nova_ops.py"))
            .arg(world.instances_path())
            .arg(images(world))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: install python3", python.display()));
        let orders = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = channel();
        // By a thread, so that a nova that hangs can be told.
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let nova = Self { child, orders, answers };
        assert_eq!(
            nova.answers.recv_timeout(PATIENCE).as_deref(),
            Ok("ready"),
            "{}: no oslo.concurrency: install what tests/run does and name its interpreter in NOVA_IMAGECACHE_PYTHON",
            python.display()
        );
        nova
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Does an operation, one of those that `nova_ops.py` lists. Says why it failed.
    #[track_caller]
    pub fn does(&mut self, order: &str) -> Result<(), String> {
        let answer = self.says(order);
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", "") => Ok(()),
            ("failed", why) => Err(why.to_owned()),
            _ => panic!("nova_ops.py: {answer:?}"),
        }
    }

    /// Takes the lock of a cache file, which must be free.
    #[track_caller]
    pub fn takes(&mut self, name: &str) {
        assert!(self.gets(name), "nova does not get the lock of {name}");
    }

    /// Takes the lock of a cache file if it is free.
    #[track_caller]
    pub fn gets(&mut self, name: &str) -> bool {
        match self.says(&format!("try {name}")).as_str() {
            "held" => true,
            "busy" => false,
            answer => panic!("nova_ops.py: {answer:?}"),
        }
    }

    #[track_caller]
    pub fn releases(&mut self, name: &str) {
        assert_eq!(self.says(&format!("release {name}")), "released");
    }

    /// The answer to an order.
    #[track_caller]
    fn says(&mut self, order: &str) -> String {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        self.answers.recv_timeout(PATIENCE).expect("nova is silent")
    }
}

impl Drop for Nova {
    fn drop(&mut self) {
        // The end of its orders ends it.
        drop(self.orders.take());
        self.child.wait().unwrap();
    }
}

/// The folder that is nova's image service.
pub fn images(world: &World) -> PathBuf {
    world.outside().join("images")
}

/// Puts an image into nova's image service.
pub fn upload(world: &World, image: &str) {
    raw(&images(world).join(image), "64k");
}

/// Sets how long ago a file or directory was changed, where it is there, without opening it: prune would take that
/// for use.
pub fn set_mtime(path: &Path, age: Duration) {
    let time = (SystemTime::now() - age).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = TimeSpec::from_duration(time);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::FollowSymlink).ok();
}
