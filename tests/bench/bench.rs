//! `cargo bench`: what a pass costs, beside what it could cost at the least; prints Markdown.
//!
//! Everything is timed as a whole process, from fork to exit, on the same warm tree, the commands taking turns.
//! `cargo bench -- --quick` leaves out the largest tree; `--keep` leaves the trees where they are, to be profiled.

mod measure;
mod tree;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use measure::{Argv, Run, Runs, Tools};
use tree::Tree;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nova-imagecache");
/// How many disks `qemu-img info` is run on.
const SAMPLE: usize = 100;
/// How many files the cache of the growing trees has, how many of them back disks, and how many of the others are old.
const CACHE_FILES: usize = 400;
const BACKING: usize = 300;
const REMOVABLE: usize = 75;
/// How many files the growing cache has.
const CACHES: [usize; 3] = [5_000, 10_000, 20_000];
/// How many files a prune removes, and how often.
const PRUNED: usize = 400;
const PRUNES: usize = 5;
/// The most that a pass may take of the floor's time.
const SHARE: f64 = 0.65;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` starts it without: only an explicit cargo bench measures.
    if !std::env::args().any(|it| it == "--bench") {
        return Ok(());
    }
    let has = |name: &str| arguments.iter().any(|it| it == name);
    let sizes: &[usize] = if has("--quick") { &[1_000, 10_000] } else { &[1_000, 10_000, 50_000] };

    let scratch = tempfile::Builder::new()
        .prefix("bench-")
        .disable_cleanup(has("--keep"))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    if has("--keep") {
        eprintln!("the trees stay in {}", scratch.path().display());
    }
    let tools = Tools::compile(scratch.path())?;
    println!("{}\n", machine(scratch.path())?);
    if !tools.under.is_empty() {
        println!(
            "Every command under `{}`, for there was other work on the machine.\n",
            tools.under.join(" ")
        );
    }
    let mut bounds = Bounds::default();

    let mut tree = Tree::new(scratch.path().join("growing"), CACHE_FILES, BACKING)?;
    let mut passes = Vec::new();
    let mut calls = Vec::new();
    let mut prunes = Vec::new();
    for &size in sizes {
        tree.grow(size)?;
        passes.push((size, pass(&tools, &tree, &mut bounds)?));
        if size == 1_000 {
            slow_storage(&tools, &tree, scratch.path(), &mut bounds)?;
        }
        if size == 10_000 {
            cold(&tools, &tree)?;
        }
        if size <= 10_000 {
            calls.push((size, instructions(&tree)?, system_calls(&tree, scratch.path())?));
        }
        prunes.push((size, prune(&tools, &mut tree)?));
    }
    growth(&passes, &mut bounds);
    print_calls(&calls);
    print_prunes(&prunes, &mut bounds);
    cache_growth(&tools, scratch.path(), &mut bounds)?;
    bounds.print()
}

/// One tree: every subcommand beside the floor and the alternatives. Returns the times of explain and of the floor.
fn pass(tools: &Tools, tree: &Tree, bounds: &mut Bounds) -> Result<(Duration, Duration)> {
    let root = tree.instances_path();
    let ours = |arguments: &[&str]| Argv::new(&ours(tree, arguments));
    let rows = [
        ("`scan`", ours(&["scan"])),
        ("`explain`", ours(&["explain"])),
        ("`explain -f json`", ours(&["explain", "-f", "json"])),
        ("`prune --dry-run`", ours(&["prune", "--dry-run"])),
        ("floor: C, one thread, 4 KiB of each file", Argv::new(&[&tools.floor, &root])),
        (
            "the same of the files `disk` alone",
            Argv::new(&[tools.floor.as_os_str(), root.as_os_str(), "disk".as_ref()]),
        ),
        (
            "`find -printf`",
            Argv::new(&["find".as_ref(), root.as_os_str(), "-printf".as_ref(), r"%p %y %s %T@\n".as_ref()]),
        ),
    ];
    let commands: Vec<Argv> = rows.iter().map(|(_, argv)| argv.clone()).collect();
    let runs = tools.take_turns(&commands, if tree.instances > 10_000 { 7 } else { 15 })?;
    let (explain, floor) = (&runs[1], &runs[4]);

    println!(
        "### {} instances ({} files), {} cache files\n",
        thousands(tree.instances),
        thousands(3 * tree.instances),
        tree.cache_files
    );
    println!("| | median | best | CPU | ÷ floor | peak memory |");
    println!("|---|--:|--:|--:|--:|--:|");
    for ((name, _), runs) in rows.iter().zip(&runs) {
        println!("| {name} | {} |", cells(runs, floor.median));
    }
    for (name, argv) in per_disk() {
        let mut taken = Vec::new();
        for sample in 0..SAMPLE {
            let disk = tree.disk(sample * (tree.instances / SAMPLE));
            let argv: Vec<&OsStr> = argv.iter().map(OsStr::new).chain([disk.as_os_str()]).collect();
            taken.push(tools.run(&Argv::new(&argv))?);
        }
        let mean = taken.iter().map(|it| it.wall).sum::<Duration>() / SAMPLE as u32;
        let scaled = mean * tree.instances as u32;
        println!(
            "| {name} ({} each, mean of {SAMPLE} disks, scaled) | {} | | | {} | |",
            time(mean),
            time(scaled),
            ratio(scaled, floor.median)
        );
        println!("| … ÷ `explain` | | | | {} | |", ratio(scaled, explain.median));
    }
    println!();
    if tree.instances == 10_000 {
        for (what, runs) in
            [("explain", &runs[1]), ("explain -f json", &runs[2]), ("prune --dry-run", &runs[3])]
        {
            bounds.check(
                runs.median <= floor.median.mul_f64(SHARE),
                format!(
                    "{what} on 10,000 instances: {} of the floor's time ({SHARE} allowed)",
                    ratio(runs.median, floor.median)
                ),
            );
        }
    }
    let peak = runs[1..4].iter().map(|it| it.peak_kib).max().unwrap_or(0);
    let limit = match tree.instances {
        0..=10_000 => 64,
        _ => 160,
    };
    bounds.check(
        peak < limit * 1024,
        format!("{} instances: peak memory {} (limit {limit} MiB)", thousands(tree.instances), memory(peak)),
    );
    Ok((explain.median, floor.median))
}

/// A command line of ours.
fn ours(tree: &Tree, arguments: &[&str]) -> Vec<OsString> {
    let mut argv: Vec<OsString> = vec![PROGRAM.into(), "-p".into(), tree.instances_path().into()];
    argv.extend(arguments.iter().map(OsString::from));
    if arguments[0] != "scan" {
        argv.extend(["--host=compute-1".into(), "--inventory".into(), tree.inventory().into()]);
    }
    argv
}

/// The command lines, but for the disk, that read one as nova does: `qemu-img info`, and with what nova puts before it
/// where that is installed.
fn per_disk() -> Vec<(&'static str, Vec<String>)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let info = words("qemu-img info --force-share --output=json");
    let mut rows = vec![("`qemu-img info` per disk", info.clone())];
    let python = std::env::var("NOVA_IMAGECACHE_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_oslo = Command::new(&python)
        .args(["-c", "import oslo_concurrency"])
        .output()
        .is_ok_and(|output| output.status.success());
    if has_oslo {
        let limit = words("-m oslo_concurrency.prlimit --as=1073741824 --cpu=30 -- env LC_ALL=C LANG=C");
        rows.push(("as nova runs it, under oslo's prlimit", [vec![python], limit, info].concat()));
    }
    rows
}

/// 1 ms more for each open and read.
fn slow_storage(tools: &Tools, tree: &Tree, scratch: &Path, bounds: &mut Bounds) -> Result<()> {
    let root = tree.instances_path();
    let explain = Argv::new(&ours(tree, &["explain"]));
    let floor = Argv::new(&[&tools.floor, &root]);
    let disks = Argv::new(&[tools.floor.as_os_str(), root.as_os_str(), "disk".as_ref()]);
    println!(
        "### Slow storage: {} instances, 1 ms more for each open and each read\n",
        thousands(tree.instances)
    );
    println!("| | time | delayed calls: opens, reads, directories | most at once | ÷ floor |");
    println!("|---|--:|--:|--:|--:|");
    let mut all: Vec<(Run, Counts)> = Vec::new();
    for (name, argv) in [
        ("floor, one thread, all files", floor),
        ("floor, one thread, the same files as `explain`", disks),
        ("`explain`", explain.clone()),
        ("`explain` where every filesystem says that it is NFS", explain.env("SLOW_NFS", "1")),
    ] {
        let counts = scratch.join("counts");
        let argv = argv.env("LD_PRELOAD", &tools.slow).env("SLOW_COUNTS", &counts);
        // The long ones once; of the short ones, in which chance weighs more, the median.
        let mut run = tools.run(&argv)?;
        if run.wall < Duration::from_secs(1) {
            let mut runs = vec![run];
            for _ in 0..6 {
                runs.push(tools.run(&argv)?);
            }
            runs.sort_by_key(|it| it.wall);
            run = runs[3];
        }
        let counts = Counts::read(&counts)?;
        let first = all.first().map_or(run, |(run, _)| *run);
        println!(
            "| {name} | {} | {}, {}, {} | {} | {} |",
            time(run.wall),
            counts.opens,
            counts.reads,
            counts.directories,
            counts.most_at_once,
            ratio(run.wall, first.wall)
        );
        if counts.opens < tree.instances
            || counts.reads < tree.instances
            || counts.directories < tree.instances
        {
            bail!("the delay did not reach {name}");
        }
        all.push((run, counts));
    }
    println!();
    if let [(serial, serial_counts), _, (run, counts), (nfs, nfs_counts)] = &all[..] {
        let each = serial.wall / serial_counts.all() as u32;
        // What cannot be overlapped comes on top: the start, the inventory, the listing of the instances path.
        for (what, run, counts, wanted, most) in
            [("slow storage", run, counts, 16, 1.25), ("slow NFS", nfs, nfs_counts, 64, 2.0)]
        {
            bounds.check(
                counts.most_at_once >= wanted,
                format!("{what}: {} calls under way at once ({wanted} wanted)", counts.most_at_once),
            );
            let share = run.wall.as_secs_f64() / (each * counts.all() as u32).as_secs_f64();
            let most = most / wanted as f64;
            bounds.check(
                share <= most,
                format!(
                    "{what}: 1/{:.1} of its calls one after another (1/{:.1} allowed)",
                    1.0 / share,
                    1.0 / most
                ),
            );
        }
    }
    Ok(())
}

struct Counts {
    opens: usize,
    reads: usize,
    directories: usize,
    most_at_once: usize,
}

impl Counts {
    fn all(&self) -> usize {
        self.opens + self.reads + self.directories
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).context("the delay was not loaded")?;
        let numbers: Vec<usize> = text.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        let [opens, reads, directories, most_at_once] = numbers[..] else { bail!("{text}: no counts") };
        Ok(Self { opens, reads, directories, most_at_once })
    }
}

/// Whether time grows as the number of instances does.
fn growth(passes: &[(usize, (Duration, Duration))], bounds: &mut Bounds) {
    println!("### Growth with the instances\n");
    println!("| instances | `explain` | for each instance | floor | for each instance |");
    println!("|--:|--:|--:|--:|--:|");
    for (size, (explain, floor)) in passes {
        let each = |it: &Duration| time(*it / *size as u32);
        println!(
            "| {} | {} | {} | {} | {} |",
            thousands(*size),
            time(*explain),
            each(explain),
            time(*floor),
            each(floor)
        );
    }
    println!();
    if let (Some((least, (first, _))), Some((most, (last, _)))) = (passes.first(), passes.last()) {
        let growth = last.as_secs_f64() / *most as f64 / (first.as_secs_f64() / *least as f64);
        bounds.check(
            growth <= 1.2,
            format!("an instance of {} costs {growth:.2} of one of {}", thousands(*most), thousands(*least)),
        );
    }
}

/// Whether time grows as the number of cache files does.
fn cache_growth(tools: &Tools, scratch: &Path, bounds: &mut Bounds) -> Result<()> {
    let mut trees = Vec::new();
    for size in CACHES {
        let mut tree = Tree::new(scratch.join(format!("cached-{size}")), size, BACKING)?;
        tree.grow(1_000)?;
        trees.push(tree);
    }
    let argv = |tree: &Tree| [&["scan"], &["explain"]].map(|it| Argv::new(&ours(tree, it)));
    let runs = tools.take_turns(&trees.iter().flat_map(argv).collect::<Vec<_>>(), 15)?;
    println!("### Growth with the cache, 1,000 instances\n");
    println!("| cache files | `scan` | for each file | `explain` | peak memory |");
    println!("|--:|--:|--:|--:|--:|");
    let mut times = Vec::new();
    for (size, runs) in CACHES.into_iter().zip(runs.chunks(2)) {
        println!(
            "| {} | {} | {} | {} | {} |",
            thousands(size),
            time(runs[0].median),
            time(runs[0].median / size as u32),
            time(runs[1].median),
            memory(runs[1].peak_kib)
        );
        times.push((runs[0].median.as_secs_f64(), runs[1].median.as_secs_f64()));
    }
    println!();
    if let [first, middle, last] = times[..] {
        let [few, some, many] = CACHES.map(|size| size as f64);
        let growth = last.0 / many / (first.0 / few);
        bounds.check(
            growth <= 1.2,
            format!(
                "scan: a cache file of {} costs {growth:.2} of one of {}",
                thousands(CACHES[2]),
                thousands(CACHES[0])
            ),
        );
        // The last files against those before them, so that what the instances cost falls out; but then chance weighs
        // more. Were it to grow as the square does, this were 2.
        let growth = (last.1 - middle.1) / (many - some) / ((middle.1 - first.1) / (some - few));
        bounds.check(
            growth <= 1.5,
            format!(
                "explain: one of the last {} cache files costs {growth:.2} of one of those before",
                thousands(CACHES[2] - CACHES[1])
            ),
        );
    }
    Ok(())
}

/// With nothing in the page cache, where root may empty it.
fn cold(tools: &Tools, tree: &Tree) -> Result<()> {
    let commands = [
        ("`explain`", Argv::new(&ours(tree, &["explain"]))),
        ("floor", Argv::new(&[&tools.floor, &tree.instances_path()])),
    ];
    let mut all = [const { Vec::new() }; 2];
    for _ in 0..3 {
        for ((_, argv), taken) in commands.iter().zip(&mut all) {
            // What is not yet written cannot be dropped.
            Command::new("sync").status()?;
            if fs_err::write("/proc/sys/vm/drop_caches", "3").is_err() {
                return Ok(());
            }
            taken.push(tools.run(argv)?.wall);
        }
    }
    println!("### Cold: {} instances, the page cache dropped before each run\n", thousands(tree.instances));
    println!("| | median of 3 |");
    println!("|---|--:|");
    for ((name, _), taken) in commands.iter().zip(all) {
        println!("| {name} | {} |", time(median(taken)));
    }
    println!();
    Ok(())
}

/// How many instructions of its own `explain` takes, where valgrind is installed.
fn instructions(tree: &Tree) -> Result<Option<u64>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).args(ours(tree, &["explain"]));
    let Ok(output) = valgrind.output() else { return Ok(None) };
    let text = String::from_utf8_lossy(&output.stderr);
    let number = text.lines().find_map(|line| line.split_once("Collected : ")?.1.parse().ok());
    Ok(Some(number.context("callgrind gave no number")?))
}

/// How often `explain` makes each system call, where strace is installed.
fn system_calls(tree: &Tree, scratch: &Path) -> Result<BTreeMap<String, u64>> {
    let counts = scratch.join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-U", "name,calls", "-o"]).arg(&counts).args(ours(tree, &["explain"]));
    if strace.output().is_err() {
        return Ok(BTreeMap::new());
    }
    let text = fs_err::read_to_string(&counts)?;
    let rows = text.lines().filter_map(|line| line.split_once(' '));
    Ok(rows
        .filter(|(name, _)| *name != "total")
        .filter_map(|(name, calls)| Some((name.to_owned(), calls.trim().parse().ok()?)))
        .collect())
}

/// What an instance more costs, by numbers that do not depend on how busy the machine is.
fn print_calls(all: &[(usize, Option<u64>, BTreeMap<String, u64>)]) {
    let [(fewer, of_fewer, calls_of_fewer), (more, of_more, calls_of_more)] = all else { return };
    let each = |few: u64, many: u64| many.saturating_sub(few) as f64 / (more - fewer) as f64;
    println!("### An instance more, of {} beside {}\n", thousands(*more), thousands(*fewer));
    if let (Some(few), Some(many)) = (of_fewer, of_more) {
        let all = *many as f64 / 1e6;
        println!("- {:.0} instructions of `explain` itself; {all:.0} million in all", each(*few, *many));
    }
    for (name, calls) in calls_of_more {
        let each = each(calls_of_fewer.get(name).copied().unwrap_or(0), *calls);
        if each >= 0.05 {
            println!("- {each:.1} calls of {name}");
        }
    }
    println!();
}

/// A dry run and a real prune of the same files, without the wait: the medians.
fn prune(tools: &Tools, tree: &mut Tree) -> Result<(Duration, Duration)> {
    let (mut dry, mut real) = (Vec::new(), Vec::new());
    let count =
        |tree: &Tree| -> Result<usize> { Ok(fs_err::read_dir(tree.instances_path().join("_base"))?.count()) };
    for _ in 0..PRUNES {
        tree.fill_cache(PRUNED - REMOVABLE)?;
        let before = count(tree)?;
        // Both warm, and without what the machine still has to write.
        Command::new("sync").status()?;
        tools.run(&Argv::new(&ours(tree, &["explain"])))?;
        dry.push(tools.run(&Argv::new(&ours(tree, &["prune", "--dry-run"])))?.wall);
        real.push(tools.run(&Argv::new(&ours(tree, &["prune", "--settle", "0"])))?.wall);
        let removed = before - count(tree)?;
        if removed != PRUNED {
            bail!("{removed} files were removed, not {PRUNED}");
        }
    }
    tree.fill_cache(0)?;
    Ok((median(dry), median(real)))
}

fn print_prunes(prunes: &[(usize, (Duration, Duration))], bounds: &mut Bounds) {
    println!("### A real prune of {PRUNED} files, `--settle 0`, medians of {PRUNES}\n");
    println!("| instances | dry run | prune | ÷ dry run | beyond two dry runs, for each file |");
    println!("|--:|--:|--:|--:|--:|");
    let mut costs = Vec::new();
    for (size, (dry, real)) in prunes {
        let each = real.saturating_sub(2 * *dry) / PRUNED as u32;
        println!(
            "| {} | {} | {} | {} | {} |",
            thousands(*size),
            time(*dry),
            time(*real),
            ratio(*real, *dry),
            time(each)
        );
        costs.push(each);
        if *size == 10_000 {
            bounds.check(
                *real <= 3 * *dry,
                format!("prune of {PRUNED} files: {} times the dry run (3 allowed)", ratio(*real, *dry)),
            );
        }
    }
    println!();
    if let (Some(first), Some(last)) = (costs.first(), costs.last()) {
        // A tenth of a dry run is chance.
        let chance = prunes.last().map_or(Duration::ZERO, |(_, (dry, _))| *dry / 10 / PRUNED as u32);
        bounds.check(
            *last <= first.mul_f64(1.5) + chance,
            format!(
                "prune: a file costs {} beside the most instances, {} beside the fewest",
                time(*last),
                time(*first)
            ),
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What must hold, and whether it did.
#[derive(Default)]
struct Bounds {
    lines: String,
    broken: usize,
}

impl Bounds {
    fn check(&mut self, holds: bool, text: String) {
        self.broken += usize::from(!holds);
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.lines, "- {}: {text}", if holds { "holds" } else { "**BROKEN**" });
    }

    fn print(self) -> Result<()> {
        println!("### Bounds\n\n{}", self.lines);
        if self.broken > 0 {
            bail!("{} bounds are broken", self.broken);
        }
        Ok(())
    }
}

fn machine(directory: &Path) -> Result<String> {
    let cpuinfo = fs_err::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        cpuinfo
            .lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split(": ").nth(1))
            .unwrap_or("?")
    };
    let output = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    let memory = fs_err::read_to_string("/proc/meminfo")?;
    let memory: u64 = memory.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    Ok(format!(
        "{} (family {}, model {}), {} cores, {} GiB of memory, Linux {}, {}, {}. \
         Whole processes, release build, output to /dev/null, everything in the page cache.",
        field("model name"),
        field("cpu family"),
        field("model\t"),
        std::thread::available_parallelism()?,
        memory >> 20,
        output("uname", &["-r"])?,
        output("stat", &["-f", "-c", "%T", &directory.to_string_lossy()])?,
        output("qemu-img", &["--version"])?,
    ))
}

fn cells(runs: &Runs, floor: Duration) -> String {
    format!(
        "{} | {} | {} | {} | {}",
        time(runs.median),
        time(runs.best),
        time(runs.cpu),
        ratio(runs.median, floor),
        memory(runs.peak_kib)
    )
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 1e-3 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.2} µs", seconds * 1e6)
    }
}

fn ratio(time: Duration, floor: Duration) -> String {
    let ratio = time.as_secs_f64() / floor.as_secs_f64();
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.2}") }
}

fn memory(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
