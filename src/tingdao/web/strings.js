/** Every text of the page, in both languages, and the one way to put a text on it. */

const STRINGS = {
  en: {
    other: "中文",
    tagline: "A recording in, the right transcript out.",
    choose: "Choose an audio or video file",
    drop: "or drop it here",
    another: "{size} · choose another",
    language: "Language",
    auto: "Detect automatically",
    yours: "Your languages",
    all: "All languages",
    start: "Transcribe",
    cancel: "Cancel",
    uploading: "Uploading…",
    recognising: "Recognising…",
    done: "{duration} of audio in {elapsed} · {language}",
    silent: "No speech was heard in {duration} of audio.",
    cancelled: "Cancelled.",
    transcript: "Transcript",
    copy: "Copy text",
    copied: "Copied",
    download: "Download {format}",
    play: "Play from {time}",
    unplayable: "This browser cannot play the file. The transcript is not affected.",
    oneFile: "One file at a time, please.",
    unreachable: "The connection to the service failed. Check that it is running, then try again.",
    strange: "The service gave an answer that cannot be read (HTTP {status}).",
    loading: "The model is being loaded. You can choose a file already.",
    standIn:
      "The small embedded model {model} is in use. It only stands in for Qwen3-ASR, which makes far fewer mistakes: " +
      "“tingdao check” says how to get it.",
    needKey: "This service asks for a key. Its operator gives you one.",
    wrongKey: "The service does not take this key. Copy it whole, or ask for another one.",
    key: "Key",
    enter: "Continue",
    privacy: "Recordings go to this server and nowhere else.",
    api: "API",
  },
  zh: {
    other: "English",
    tagline: "录音进来，文字出去。",
    choose: "选择一个音频或视频文件",
    drop: "也可以拖到这里",
    another: "{size} · 换一个文件",
    language: "语言",
    auto: "自动识别",
    yours: "常用语言",
    all: "全部语言",
    start: "开始识别",
    cancel: "取消",
    uploading: "正在上传…",
    recognising: "正在识别…",
    done: "录音 {duration}，用时 {elapsed} · {language}",
    silent: "在 {duration} 的录音里没有听到人声。",
    cancelled: "已取消。",
    transcript: "文字",
    copy: "复制文字",
    copied: "已复制",
    download: "下载 {format}",
    play: "从 {time} 开始播放",
    unplayable: "这个浏览器无法播放该文件，但不影响识别结果。",
    oneFile: "一次只能识别一个文件。",
    unreachable: "连接不上服务。请确认服务正在运行，然后再试一次。",
    strange: "服务返回了无法理解的内容（HTTP {status}）。",
    loading: "模型正在加载，可以先选择文件。",
    standIn:
      "当前使用的是内置小模型 {model}，它只是临时代替 Qwen3-ASR，错误要多得多。" +
      "运行 tingdao check 可以查看如何启用 Qwen3-ASR。",
    needKey: "使用这个服务需要密钥，请向管理员索取。",
    wrongKey: "服务不接受这个密钥。请完整复制，或另外索取一个。",
    key: "密钥",
    enter: "继续",
    privacy: "录音只会发送到这台服务器。",
    api: "API",
  },
};

const REMEMBERED = "tingdao.language";
const values = new WeakMap();
let current = remembered() ?? (navigator.language.startsWith("zh") ? "zh" : "en");

/** The language of the page: "zh" or "en". */
export function language() {
  return current;
}

/** The text called `key`, its {names} filled from `params`. */
export function say(key, params = {}) {
  return STRINGS[current][key].replace(/\{(\w+)\}/g, (_, name) => params[name]);
}

/** Show a text in an element, also after a change of language. A param that is a function is called then. */
export function put(element, key, params = {}) {
  element.dataset.text = key;
  values.set(element, params);
  render(element);
}

/** Show words that are not ours, such as a file name, or none. */
export function putPlain(element, text) {
  delete element.dataset.text;
  element.textContent = text;
}

/** Show the whole page in the current language. */
export function translatePage() {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  document.querySelectorAll("[data-text]").forEach(render);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.title = say(element.dataset.label, { format: element.textContent });
    element.setAttribute("aria-label", element.title);
  }
  document.getElementById("toggle").lang = current === "zh" ? "en" : "zh-CN";
}

/** Change to the other language, and remember it where the browser allows. */
export function changeLanguage() {
  current = current === "zh" ? "en" : "zh";
  try {
    localStorage.setItem(REMEMBERED, current);
  } catch {
    // Storage is switched off: the choice lasts as long as the page.
  }
  translatePage();
}

function render(element) {
  const params = Object.entries(values.get(element) ?? {});
  const filled = params.map(([name, value]) => [name, typeof value === "function" ? value() : value]);
  element.textContent = say(element.dataset.text, Object.fromEntries(filled));
}

function remembered() {
  try {
    const name = localStorage.getItem(REMEMBERED);
    return name in STRINGS ? name : null;
  } catch {
    return null;
  }
}
