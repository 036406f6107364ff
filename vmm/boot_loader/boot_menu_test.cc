#include "vmm/boot_loader/boot_menu.h"

#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot_loader/bls_entry.h"
#include "vmm/boot_loader/fake_file_system.h"
#include "vmm/boot_loader/test_disks.h"
#include "vmm/boot_loader/test_unified_kernel.h"

namespace bulkhead::boot_loader {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kRoot[] = "11111111-2222-3333-4444-555555555555";
constexpr char kBoot[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

std::string TestData(const std::string& name) {
  std::ifstream in(absl::StrCat("vmm/boot_loader/testdata/", name));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  EXPECT_FALSE(text.empty()) << name;
  return text;
}

std::string GrubEnvironment(const std::string& lines) {
  std::string text = absl::StrCat("# GRUB Environment Block\n", lines);
  text.resize(1024, '#');
  return text;
}

std::vector<Volume> OneVolume(std::map<std::string, std::string> files) {
  std::vector<Volume> volumes;
  volumes.push_back(FakeVolume(1, "hd0,gpt1", kRoot, "root", std::move(files)));
  return volumes;
}

// What boots, in one line; or the error and the log.
std::string Boots(const std::vector<Volume>& volumes, const std::string& wanted = "") {
  std::vector<std::string> log;
  const absl::StatusOr<BootPlan> plan = FindBootPlan(volumes, wanted, log);
  if (!plan.ok()) return absl::StrCat(plan.status().message(), "\n", absl::StrJoin(log, "\n"));
  std::string text = absl::StrCat(plan->kernel.volume->device, ":", plan->kernel.path);
  for (const FilePlace& initrd : plan->initrds) absl::StrAppend(&text, " + ", initrd.path);
  return absl::StrCat(text, " | ", plan->command_line);
}

std::map<std::string, std::string> Debian12Files() {
  return {{"/boot/grub/grub.cfg", TestData("debian_12_grub.cfg")},
          {"/boot/vmlinuz-6.1.0-28-amd64", "kernel"},
          {"/boot/initrd.img-6.1.0-28-amd64", "initrd"},
          {"/boot/vmlinuz-6.1.0-27-amd64", "kernel"},
          {"/boot/initrd.img-6.1.0-27-amd64", "initrd"}};
}

const std::string kDebian12Default = absl::StrCat(
    "hd0,gpt1:/boot/vmlinuz-6.1.0-28-amd64 + /boot/initrd.img-6.1.0-28-amd64 | root=UUID=", kRoot,
    " ro quiet");
const std::string kDebian12Older = absl::StrCat(
    "hd0,gpt1:/boot/vmlinuz-6.1.0-27-amd64 + /boot/initrd.img-6.1.0-27-amd64 | root=UUID=", kRoot,
    " ro quiet");

TEST(BootMenuTest, BootsDebian12) {
  EXPECT_EQ(Boots(OneVolume(Debian12Files())), kDebian12Default);
}

TEST(BootMenuTest, ChoosesAnEntryByNumberTitleIdOrAPartOfThese) {
  const std::vector<Volume> volumes = OneVolume(Debian12Files());
  EXPECT_EQ(Boots(volumes, "0"), kDebian12Default);
  EXPECT_EQ(Boots(volumes, "1"), kDebian12Default) << "a submenu's first";
  EXPECT_EQ(Boots(volumes, "1>2"), kDebian12Older);
  EXPECT_EQ(Boots(volumes, absl::StrCat("gnulinux-advanced-", kRoot,
                                        ">gnulinux-6.1.0-27-amd64-advanced-", kRoot)),
            kDebian12Older);
  EXPECT_EQ(Boots(volumes,
                  "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux "
                  "6.1.0-27-amd64"),
            kDebian12Older);
  EXPECT_EQ(Boots(volumes, "6.1.0-27"), kDebian12Older);
  EXPECT_EQ(
      Boots(volumes, "recovery"),
      absl::StrCat("hd0,gpt1:/boot/vmlinuz-6.1.0-28-amd64 + /boot/initrd.img-6.1.0-28-amd64 | "
                   "root=UUID=",
                   kRoot, " ro single dis_ucode_ldr"));
  const std::string none = Boots(volumes, "5.10");
  EXPECT_THAT(none, HasSubstr("entry 0, \"Debian GNU/Linux\" (gnulinux-simple-"));
  EXPECT_THAT(none, HasSubstr("entry 1>2, "));
  EXPECT_THAT(none, HasSubstr("no entry \"5.10\" that can be booted"));
}

TEST(BootMenuTest, BootsTheNextEntryIfAKernelIsNotThere) {
  auto files = Debian12Files();
  files.erase("/boot/vmlinuz-6.1.0-28-amd64");
  EXPECT_EQ(Boots(OneVolume(files)), kDebian12Older);
  EXPECT_THAT(Boots(OneVolume(files), "0"),
              HasSubstr("its kernel (hd0,gpt1)/boot/vmlinuz-6.1.0-28-amd64 does not exist"))
      << "but not another one than the user wants";
}

TEST(BootMenuTest, AnEntryForTheNextBootOnlyIsNotTaken) {
  auto files = Debian12Files();
  files["/boot/grub/grubenv"] = GrubEnvironment("next_entry=1>2\n");
  EXPECT_EQ(Boots(OneVolume(files)), kDebian12Default);
}

TEST(BootMenuTest, BootsDebian13WithASeparateBootPartitionAndASavedEntry) {
  std::vector<Volume> volumes;
  volumes.push_back(
      FakeVolume(1, "hd0,msdos1", kBoot, "",
                 {{"/grub/grub.cfg", TestData("debian_13_grub.cfg")},
                  {"/grub/grubenv",
                   GrubEnvironment(absl::StrCat("saved_entry=gnulinux-advanced-", kRoot,
                                                ">gnulinux-6.12.6-amd64-advanced-", kRoot, "\n"))},
                  {"/vmlinuz-6.12.9+deb13-amd64", "kernel"},
                  {"/initrd.img-6.12.9+deb13-amd64", "initrd"},
                  {"/vmlinuz-6.12.6-amd64", "kernel"},
                  {"/initrd.img-6.12.6-amd64", "initrd"},
                  {"/intel-ucode.img", "microcode"}}));
  EXPECT_EQ(Boots(volumes),
            "hd0,msdos1:/vmlinuz-6.12.6-amd64 + /intel-ucode.img + /initrd.img-6.12.6-amd64 | "
            "root=/dev/mapper/vg-root ro quiet splash");
  EXPECT_EQ(Boots(volumes, "0"),
            "hd0,msdos1:/vmlinuz-6.12.9+deb13-amd64 + /intel-ucode.img + "
            "/initrd.img-6.12.9+deb13-amd64 | root=/dev/mapper/vg-root ro quiet splash");
}

TEST(BootMenuTest, BootsUbuntu2404) {
  std::vector<Volume> volumes;
  volumes.push_back(FakeVolume(1, "hd0,gpt1", kRoot, "cloudimg-rootfs", {{"/etc/fstab", "x"}}));
  volumes.push_back(FakeVolume(16, "hd0,gpt16", kBoot, "BOOT",
                               {{"/grub/grub.cfg", TestData("ubuntu_24_04_grub.cfg")},
                                {"/vmlinuz-6.8.0-51-generic", "kernel"},
                                {"/initrd.img-6.8.0-51-generic", "initrd"}}));
  EXPECT_EQ(Boots(volumes),
            "hd0,gpt16:/vmlinuz-6.8.0-51-generic + /initrd.img-6.8.0-51-generic | "
            "root=LABEL=cloudimg-rootfs ro console=tty1 console=ttyS0");
}

TEST(BootMenuTest, BootsAnUbuntuCloudImageWithItsInitrdWhateverItsNoteSays) {
  for (const char* note : {"", "initrdfail=2\n"}) {
    std::string config = TestData("ubuntu_24_04_grub.cfg");
    config = absl::StrReplaceAll(
        config, {{"set partuuid=\n", "set partuuid=12345678-01\n"},
                 {"$vt_handoff\n\t  initrd\t/initrd.img-6.8.0-51-generic\n", "panic=-1\n"}});
    std::vector<Volume> volumes;
    volumes.push_back(FakeVolume(16, "hd0,gpt16", kBoot, "BOOT",
                                 {{"/grub/grub.cfg", config},
                                  {"/grub/grubenv", GrubEnvironment(note)},
                                  {"/vmlinuz-6.8.0-51-generic", "kernel"},
                                  {"/initrd.img-6.8.0-51-generic", "initrd"}}));
    EXPECT_EQ(Boots(volumes),
              "hd0,gpt16:/vmlinuz-6.8.0-51-generic + /initrd.img-6.8.0-51-generic | "
              "root=LABEL=cloudimg-rootfs ro console=tty1 console=ttyS0")
        << note;
  }
}

std::string FedoraEntry(const std::string& version) {
  return absl::StrCat("title Fedora Linux (", version, ") 40 (Cloud Edition)\nversion ", version,
                      "\nlinux /vmlinuz-", version, "\ninitrd /initramfs-", version,
                      ".img $tuned_initrd\noptions $kernelopts $tuned_params console=ttyS0\n"
                      "grub_users $grub_users\ngrub_arg --unrestricted\ngrub_class fedora\n");
}

std::vector<Volume> Fedora40(const std::string& environment) {
  const std::string machine = "0123456789abcdef0123456789abcdef";
  std::map<std::string, std::string> files = {{"/grub2/grub.cfg", TestData("fedora_40_grub.cfg")},
                                              {"/grub2/grubenv", GrubEnvironment(environment)}};
  for (const std::string version :
       {"6.8.5-301.fc40.x86_64", "6.11.3-200.fc40.x86_64", "6.9.12-200.fc40.x86_64", "0-rescue"}) {
    files[absl::StrCat("/loader/entries/", machine, "-", version, ".conf")] = FedoraEntry(version);
    files[absl::StrCat("/vmlinuz-", version)] = "kernel";
    files[absl::StrCat("/initramfs-", version, ".img")] = "initrd";
  }
  std::vector<Volume> volumes;
  volumes.push_back(FakeVolume(3, "hd0,gpt3", kBoot, "boot", std::move(files)));
  return volumes;
}

TEST(BootMenuTest, BootsFedora40ByItsBlsEntries) {
  EXPECT_EQ(Boots(Fedora40("boot_success=0\n")),
            "hd0,gpt3:/vmlinuz-6.11.3-200.fc40.x86_64 + /initramfs-6.11.3-200.fc40.x86_64.img | "
            "root=UUID=99999999-0000-0000-0000-000000000000 ro rootflags=subvol=root   "
            "console=ttyS0")
      << "the newest, with the options of grub.cfg";
  EXPECT_EQ(Boots(Fedora40("saved_entry=0123456789abcdef0123456789abcdef-6.8.5-301.fc40.x86_64\n"
                           "kernelopts=root=/dev/vda4 ro\ntuned_params=tuned\n")),
            "hd0,gpt3:/vmlinuz-6.8.5-301.fc40.x86_64 + /initramfs-6.8.5-301.fc40.x86_64.img | "
            "root=/dev/vda4 ro tuned console=ttyS0");
  EXPECT_THAT(Boots(Fedora40(""), "3"), HasSubstr("/vmlinuz-0-rescue"));
  EXPECT_THAT(Boots(Fedora40(""), "6.9.12"), HasSubstr("/vmlinuz-6.9.12-200"));
}

TEST(BootMenuTest, BootsBlsEntriesWithoutGrub) {
  EXPECT_EQ(
      Boots(OneVolume({{"/loader/entries/a-2.conf",
                        "title A\nlinux /k2\ninitrd /i2\noptions root=/dev/vda1\noptions ro\n"},
                       {"/loader/entries/a-1.conf", "linux /k1\n"},
                       {"/k1", "kernel"},
                       {"/k2", "kernel"},
                       {"/i2", "initrd"}})),
      "hd0,gpt1:/k2 + /i2 | root=/dev/vda1 ro");
}

PeSections UnifiedSections(const std::string& command_line) {
  return {{".text", "stub"},
          {".osrel", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\n"},
          {".cmdline", command_line + "\n"},
          {".linux", std::string(700, 'k')},
          {".initrd", std::string(1300, 'i')}};
}

std::string Contents(const FilePlace& place) {
  return place.volume->files->ReadFile(place.path, 1 << 20, place.part).value_or("none");
}

TEST(BootMenuTest, BootsUnifiedKernelImages) {
  std::vector<Volume> volumes =
      OneVolume({{"/EFI/Linux/debian-6.9.0.efi", UnifiedKernelImage(UnifiedSections("old"))},
                 {"/EFI/Linux/debian-6.12.1.efi", UnifiedKernelImage(UnifiedSections("quiet a"))},
                 {"/EFI/Linux/readme.txt", "x"}});
  std::vector<std::string> log;
  const absl::StatusOr<BootPlan> plan = FindBootPlan(volumes, "", log);
  ASSERT_TRUE(plan.ok()) << plan.status() << absl::StrJoin(log, "\n");
  EXPECT_EQ(plan->title, "Debian GNU/Linux 13 (trixie)");
  EXPECT_EQ(plan->kernel.path, "/EFI/Linux/debian-6.12.1.efi") << "the newest";
  EXPECT_EQ(plan->command_line, "quiet a");
  EXPECT_EQ(Contents(plan->kernel), std::string(700, 'k'));
  ASSERT_EQ(plan->initrds.size(), 1u);
  EXPECT_EQ(Contents(plan->initrds[0]), std::string(1300, 'i'));
  EXPECT_THAT(Boots(volumes, "6.9.0"), HasSubstr("| old"));
  EXPECT_THAT(Boots(volumes, "1"), HasSubstr("| old"));
}

TEST(BootMenuTest, OfAUnifiedKernelImageWithProfilesTheFirstBoots) {
  PeSections sections = UnifiedSections("first");
  for (const char* more : {".profile", ".cmdline", ".profile", ".linux"}) {
    sections.emplace_back(more, "another");
  }
  EXPECT_EQ(Boots(OneVolume({{"/EFI/Linux/a.efi", UnifiedKernelImage(sections)}})),
            "hd0,gpt1:/EFI/Linux/a.efi + /EFI/Linux/a.efi | first");
}

TEST(BootMenuTest, ChoosesAsLoaderConfSays) {
  std::map<std::string, std::string> files = {
      {"/EFI/Linux/arch-6.9.efi", UnifiedKernelImage(UnifiedSections("unified"))},
      {"/loader/entries/arch-6.10.conf", "linux /k10\noptions a\n"},
      {"/loader/entries/arch-6.8.conf", "linux /k8\noptions b\n"},
      {"/k10", "kernel"},
      {"/k8", "kernel"}};
  EXPECT_EQ(Boots(OneVolume(files)), "hd0,gpt1:/k10 | a") << "the newest of both types";
  for (const auto& [line, boots] : std::map<std::string, std::string>{
           {"default arch-6.9.efi", "/EFI/Linux/arch-6.9.efi + /EFI/Linux/arch-6.9.efi | unified"},
           {"timeout 3\ndefault\tARCH-6.8*", "/k8 | b"},
           {"default arch-6.8", "/k8 | b"},
           {"default none*", "/k10 | a"},
           {"#default arch-6.8", "/k10 | a"}}) {
    files["/loader/loader.conf"] = line + "\n";
    EXPECT_EQ(Boots(OneVolume(files)), "hd0,gpt1:" + boots) << line;
  }
}

TEST(BootMenuTest, SaysWhatAUnifiedKernelImageLacks) {
  const std::string good = UnifiedKernelImage(UnifiedSections(""));
  std::string other_machine = good;
  Put(other_machine, 0x84, 0xaa64, 2);
  std::string beyond = good;
  Put(beyond, 0x3c, 0xffffffff, 4);
  for (const auto& [image, says] : std::map<std::string, std::string>{
           {"", "is no PE file for x86-64"},
           {good.substr(0, 420), "is no PE file for x86-64"},
           {good.substr(0, 1700), "ends before its section .osrel"},
           {other_machine, "is no PE file for x86-64"},
           {beyond, "is no PE file for x86-64"},
           {UnifiedKernelImage({{".text", "x"}}), "has no section .linux"},
           {UnifiedKernelImage({{".linux", ""}}), "has no section .linux"}}) {
    EXPECT_THAT(Boots(OneVolume({{"/EFI/Linux/a.efi", image}})),
                HasSubstr("(hd0,gpt1)/EFI/Linux/a.efi " + says));
  }
}

TEST(BootMenuTest, FollowsVariablesLoopsFunctionsAndOtherFiles) {
  EXPECT_EQ(Boots(OneVolume({{"/boot/grub/grub.cfg", R"(
function entry {
  menuentry "$1 ${2}" { linux (hd7,gpt1)/k "a b" c\ d '$x' "$name" x$name$unset; initrd /i; }
}
source $prefix/other.cfg
for name in one two; do entry $name "of many"; done
n=0
while [ $n != xxx ]; do
  set n="${n}x"
  if [ $n = 0xxx ]; then n=xxx; fi
done
if [ ! -e /no -a ( -s /k -o -f /no ) ]; then default=1; fi
if [ = 0 ]; then default=none; fi
if test $other = yes; then default="two of many"; fi
)"},
                             {"/boot/grub/other.cfg", "set other=yes # not more\n"},
                             {"/k", "kernel"},
                             {"/i", "initrd"}})),
            "hd0,gpt1:/k + /i | \"a b\" \"c d\" $x two xtwo");
}

TEST(BootMenuTest, SaysWhatItLookedForAndFound) {
  EXPECT_THAT(Boots({}), HasSubstr("nothing to boot"));
  EXPECT_THAT(Boots(OneVolume({{"/etc/fstab", ""}})),
              HasSubstr("(hd0,gpt1): no /boot/grub/grub.cfg, /grub/grub.cfg, "));
  EXPECT_THAT(Boots(OneVolume({{"/boot/grub/grub.cfg", "menuentry 'x' {\n multiboot /xen\n}\n"}})),
              HasSubstr("entry \"x\": it loads no Linux"));
  EXPECT_THAT(Boots(OneVolume({{"/boot/grub/grub.cfg", "menuentry 'x' {\n linux (lvm/a)/k\n}\n"}})),
              HasSubstr("its kernel (lvm/a)/k is on no file system that can be read"));
  EXPECT_THAT(Boots(OneVolume({{"/boot/grub/grub.cfg", "if true; then\nmenuentry x {\n}\n"}})),
              HasSubstr("grub.cfg: 0 entries; line 4: \"fi\" is missing"));
}

TEST(BootMenuTest, EndsWhateverTheScriptDoes) {
  for (const char* script : {
           "while true; do true; done",
           "function f { f; f; }\nf",
           "source $prefix/grub.cfg",
           "a=xxxxxxxxxxxxxxxxxxxxxxxxxxxx; while true; do a=$a$a$a$a; done",
           "while true; do menuentry x { linux /k; }; done",
           "function f { for a in 1 2 3 4 5 6 7 8 9; do for b in 1 2 3 4 5 6 7 8 9; do f; done; "
           "done }\nf",
       }) {
    EXPECT_THAT(Boots(OneVolume({{"/boot/grub/grub.cfg", script}})), HasSubstr("nothing to boot"))
        << script;
  }
  std::string deep;
  for (int i = 0; i < 10'000; ++i) deep += "if ";
  EXPECT_THAT(Boots(OneVolume({{"/boot/grub/grub.cfg", deep}})), HasSubstr("too deeply nested"));
}

TEST(BlsEntryTest, ComparesVersionsAsRpmDoes) {
  const char* ascending[] = {"a-0-rescue", "a-5.9",    "a-5.10~rc1", "a-5.10",     "a-5.10.a",
                             "a-5.10.0",   "a-5.10.1", "a-6.1.0-9",  "a-6.1.0-10", "b-1"};
  for (const char* a : ascending) EXPECT_EQ(CompareVersions(a, a), 0);
  for (size_t i = 0; i + 1 < std::size(ascending); ++i) {
    EXPECT_LT(CompareVersions(ascending[i], ascending[i + 1]), 0) << ascending[i];
    EXPECT_GT(CompareVersions(ascending[i + 1], ascending[i]), 0) << ascending[i];
  }
}

TEST(BlsEntryTest, TakesTheFirstWordOfALineAsItsKey) {
  const BlsEntry entry = ParseBlsEntry(
      "x",
      "# comment\ntitle\tA title\nlinux /k\ninitrd /a\ninitrd /b /c\noptions a\noptions  b c\nx");
  EXPECT_EQ(entry.title, "A title");
  EXPECT_EQ(entry.linux, "/k");
  EXPECT_THAT(entry.initrds, ElementsAre("/a", "/b", "/c"));
  EXPECT_EQ(entry.options, "a b c");
}

}  // namespace
}  // namespace bulkhead::boot_loader
