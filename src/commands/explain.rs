//! `explain`: why each file stays or can be removed.

use anyhow::Result;

use super::pass::Pass;
use crate::cli::{Explain, Global};
use crate::exit::Exit;
use crate::guard::{self, Asked};

pub fn run(global: &Global, args: &Explain) -> Result<Exit> {
    let asked = Asked { dry_run: true, ..Asked::default() };
    let pass = Pass::prepare(global, &args.judging, args.as_of, asked)?;
    let evidence = pass.shown(|| pass.gather())?;
    let mut found = pass.judge(&evidence, pass.inventory())?;
    found.warnings.extend(guard::set_aside_found(evidence.cache.as_ref()));
    pass.select(&args.subjects, &mut found)?;
    pass.report(&found, None)
}
