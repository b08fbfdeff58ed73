// Lets the search work where a page is opened as a file: browsers refuse workers there, so a hidden
// frame takes a worker's place. Material's worker looks for a parent with an `IFrameWorker`.
(() => {
  if (location.protocol !== 'file:') return

  function importScripts(...urls) {
    return urls.reduce(
      (before, url) =>
        before.then(
          () =>
            new Promise((resolve) => {
              const script = document.createElement('script')
              script.src = url
              script.addEventListener('load', resolve)
              document.body.appendChild(script)
            }),
        ),
      Promise.resolve(),
    )
  }

  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement('iframe')
      frame.hidden = true
      document.body.appendChild(frame)
      this.window = frame.contentWindow
      window.addEventListener('message', (event) => {
        if (event.source === this.window) {
          this.dispatchEvent(new MessageEvent('message', { data: event.data }))
        }
      })
      this.window.document.open()
      this.window.document.write(
        `<html><body><script>
          postMessage = (data) => parent.dispatchEvent(
            new MessageEvent('message', { data, source: window }))
          importScripts = ${importScripts}
        </script><script src="${url}"></script></body></html>`,
      )
      this.window.document.close()
      this.ready = new Promise((resolve) => this.window.addEventListener('load', resolve))
    }

    postMessage(data) {
      this.ready.then(() => this.window.dispatchEvent(new MessageEvent('message', { data })))
    }
  }
  window.Worker = window.IFrameWorker
})()
