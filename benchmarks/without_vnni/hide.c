/* Preloaded into a process: CPUID tells it of no AVX-512, no VNNI and no AMX. Linux on x86-64.
 *
 * With CPUID faulting (Intel SDM volume 3, "CPUID Faulting"; arch_prctl(2), ARCH_SET_CPUID) the instruction
 * raises SIGSEGV; the handler executes it for real, takes bits away, and goes on behind it. New threads
 * inherit the setting. Programs may neither replace the handler nor block the signal: those calls are
 * caught here, and remembered, for faults that are none of ours.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))

static struct sigaction theirs;
static int installed;

static void allow_cpuid(int on) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, on); }

/* Intel SDM volume 2, CPUID, leaf 7: the extensions of AVX-512, AVX-VNNI, AMX and AVX10. */
static void hide(uint32_t leaf, uint32_t part, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    if (leaf == 7 && part == 0) {
        *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    }
    if (leaf == 7 && part == 1) {
        *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        *d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19));
    }
}

static void trap(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    if (info->si_code != SEGV_MAPERR && info->si_code != SEGV_ACCERR && instruction[0] == 0x0f &&
        instruction[1] == 0xa2) {
        uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
        allow_cpuid(1);
        __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(part));
        allow_cpuid(0);
        hide(leaf, part, &a, &b, &c, &d);
        registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
        registers[REG_RIP] += 2;
    } else if (theirs.sa_flags & SA_SIGINFO) {
        theirs.sa_sigaction(number, info, context);
    } else {
        struct sigaction none = {.sa_handler = SIG_DFL};
        int (*real)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
        real(SIGSEGV, &none, NULL); /* the instruction faults again, and ends the process */
    }
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before)
{
    int (*real)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV || !installed)
        return real(number, wanted, before);
    if (before)
        *before = theirs;
    if (wanted)
        theirs = *wanted;
    return 0;
}

int __sigaction(int number, const struct sigaction *wanted, struct sigaction *before)
{
    return sigaction(number, wanted, before);
}

sighandler_t signal(int number, sighandler_t handler)
{
    struct sigaction wanted = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
    return sigaction(number, &wanted, &before) ? SIG_ERR : before.sa_handler;
}

static int mask(const char *name, int how, const sigset_t *set, sigset_t *before)
{
    int (*real)(int, const sigset_t *, sigset_t *) = dlsym(RTLD_NEXT, name);
    sigset_t open;
    if (!set || how == SIG_UNBLOCK)
        return real(how, set, before);
    open = *set;
    sigdelset(&open, SIGSEGV);
    return real(how, &open, before);
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *before)
{
    return mask("pthread_sigmask", how, set, before);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *before)
{
    return mask("sigprocmask", how, set, before);
}

/* Not on the alternative stack, which a library may have freed. */
__attribute__((constructor)) static void install(void)
{
    struct sigaction ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = trap;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGSEGV, &ours, &theirs) == 0) {
        installed = 1;
        allow_cpuid(0);
    }
}
