//! Whether what is built as a lock says can run on this machine.

use anyhow::{Context, Result};
use be_portage::portageq;

use super::Work;
use crate::lock::Lock;
use crate::refusal::{NoLock, Refusal};

/// What names the kind of machine, of the settings of Portage.
const MACHINE: [&str; 2] = ["ARCH", "CHOST"];

/// What the kernel calls otherwise than CPU_FLAGS_X86 does
/// (`arch/x86/include/asm/cpufeatures.h`, profiles/desc/cpu_flags_x86.desc).
const NAMES: [(&str, &str); 4] = [
    ("fma3", "fma"),
    ("pclmul", "pclmulqdq"),
    ("sha", "sha_ni"),
    ("sse3", "pni"),
];

impl Work<'_> {
    /// Refuse the lock of another kind of machine, and tell where that of another processor asks
    /// for more than this one has. Before the configuration is that of the lock.
    pub(super) fn fits(&mut self, lock: &Lock) -> Result<()> {
        let here = self.scene_of(|scene| scene.run(portageq::ask_settings()))?;
        let here = portageq::settings(&here.out);
        for name in MACHINE {
            let (wanted, is) = (lock.settings.get(name), here.get(name));
            if let (Some(wanted), Some(is)) = (wanted, is)
                && wanted != is
            {
                let (wanted, here) = (wanted.clone(), is.clone());
                return Err(Refusal::NoLock(NoLock::Machine { wanted, here }).into());
            }
        }
        let flags = lock.settings.get("CPU_FLAGS_X86");
        let info = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let lacks = lacking(flags.map(String::as_str).unwrap_or_default(), &info);
        if !lacks.is_empty() {
            self.watch.note(&format!(
                "the lock is for another processor: this one has no {} (CPU_FLAGS_X86), and what \
                 is built so may not run here",
                lacks.join(", ")
            ));
        }
        Ok(())
    }
}

/// Those of CPU_FLAGS_X86 that the processor in proc_cpuinfo(5) has not; none where that does not
/// say.
fn lacking<'a>(wanted: &'a str, info: &str) -> Vec<&'a str> {
    let mut lines = info.lines();
    let has = lines.find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let Some((_, has)) = has else {
        return Vec::new();
    };
    let has: Vec<&str> = has.split_whitespace().collect();
    let is_there = |flag: &str| {
        let name = NAMES.iter().find(|(own, _)| *own == flag);
        let name = name.map_or(flag, |(_, kernel)| kernel);
        // All that have SSE have these of AMD's, and only AMD's say so.
        has.contains(&name) || flag == "mmxext" && has.contains(&"sse")
    };
    let wanted = wanted.split_whitespace();
    wanted.filter(|flag| !is_there(flag)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_processor_has_not_is_named() {
        let info = "processor\t: 0\nflags\t\t: fpu sse pni fma pclmulqdq avx2\nbugs\t\t: x\n";
        assert_eq!(lacking("avx2 fma3 mmxext pclmul sse sse3", info), [""; 0]);
        assert_eq!(
            lacking("avx avx2 avx512f sha", info),
            ["avx", "avx512f", "sha"]
        );
        // Another kind of machine.
        assert_eq!(lacking("avx", "Features\t: fp asimd\n"), [""; 0]);
    }
}
